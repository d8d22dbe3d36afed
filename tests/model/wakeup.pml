// SPDX-License-Identifier: BSD-2-Clause
// Sleeping and waking: a sender (room), three receivers (data, FIN), TCP's helper thread, under store buffers.
// Broken rules end in a thread that sleeps although there is something for it.
// What is modelled and what is not: README.md. Rules marked [n] are broken one at a time by run.sh.

#ifndef ITEMS
#define ITEMS 2
#endif
#ifndef RING
#define RING 1
#endif

// Who receives: one thread in a blocking call, and threads in epoll_wait
#ifndef BLOCKED
#define BLOCKED 1
#endif
#ifndef POLLING
#define POLLING 2
#endif
#ifdef ONE_INSTANCE
#define INSTANCE(id) 0 // the threads in epoll_wait share an epoll instance
#else
#define INSTANCE(id) (id)
#endif

// Receivers that do not sleep let the sender publish without a fence
#ifdef LIGHT_OFFERS
#define MAY_OFFER true
#else
#define MAY_OFFER false
#endif

#define THREADS 4
#define SENDER 0 // thread 0; the others receive

#define FUTEX 1 // bits of `waiting`
#define FD 2
#define LIGHT 4
#define SEQUENCE 8

// ---------------------------------------------------------------------------------------------- memory

// The sender's slot and the receiver's: positions, event count, `waiting`, and the local count of waiters behind it
byte head, bell_s, waiting_s, waiters_s;
byte tail, bell_r, waiting_r, waiters_futex, waiters_fd;

byte events; // the receivers' own event count
byte users;  // threads that may sleep on it

// Stores of a thread that others do not see yet. Entries of one thread become visible in order
#define OP_HEAD 1
#define OP_TAIL 2 // and the receivers' lock is released
#define OP_LISTEN_S 3
#define OP_UNLISTEN_S 4
#define OP_LISTEN_FUTEX 5
#define OP_LISTEN_FD 6
#define OP_UNLISTEN_FUTEX 7
#define OP_UNLISTEN_FD 8
#define OP_LIGHT 9
chan buffer[THREADS] = [3] of { byte };

#define FENCE(id) (len(buffer[id]) == 0)

bit rx_lock;
bit wait_lock; // around `waiting_r`

#ifdef BROKEN_NO_SEQUENCE
#define NEXT(w) w // [1] a new sleep is a new word
#else
#define NEXT(w) ((w) + SEQUENCE)
#endif

#ifdef BROKEN_CLEAR_FOR_ALL
#define LAST(n) true
#else
#define LAST(n) (n == 0) // [2] the last waiter clears the bit
#endif

// The lock goes with the store, unless a barrier is to come
#ifdef BROKEN_BARRIER_UNLOCKED
#define UNLOCKS(w) true // [13]
#else
#define UNLOCKS(w) (((w) & LIGHT) == 0)
#endif

inline listening(bits)
{
	if
	:: UNLOCKS(waiting_r) -> wait_lock = 0
	:: else
	fi;
	waiting_r = NEXT(waiting_r & ~LIGHT) | bits
}

inline visible(op)
{
	if
	:: op == OP_HEAD -> head++
	:: op == OP_TAIL -> tail++; rx_lock = 0
	:: op == OP_LISTEN_S -> waiting_s = NEXT(waiting_s) | FUTEX
	:: op == OP_UNLISTEN_S -> waiting_s = waiting_s & ~FUTEX
	:: op == OP_LISTEN_FUTEX -> waiters_futex++; listening(FUTEX)
	:: op == OP_LISTEN_FD -> waiters_fd++; listening(FD)
	:: op == OP_LIGHT -> waiting_r = waiting_r | LIGHT; wait_lock = 0
	:: op == OP_UNLISTEN_FUTEX -> waiters_futex--;
		if
		:: LAST(waiters_futex) -> waiting_r = waiting_r & ~FUTEX
		:: else
		fi
	:: op == OP_UNLISTEN_FD -> waiters_fd--;
		if
		:: LAST(waiters_fd) -> waiting_r = waiting_r & ~FD
		:: else
		fi
	fi
}

active proctype Memory()
{
	byte op;

end:
	do
	:: atomic { buffer[0]?op -> visible(op); op = 0 }
	:: atomic { buffer[1]?op -> visible(op); op = 0 }
	:: atomic { buffer[2]?op -> visible(op); op = 0 }
	:: atomic { buffer[3]?op -> visible(op); op = 0 }
	od
}

// ---------------------------------------------------------------------------------------------- kernel

// futex_waitv queues on one word after the other, comparing each; a wake takes the thread out of the queue
bit on_bell[THREADS], on_events[THREADS];

inline futex_waitv(id, seen_b, seen_e)
{
	atomic {
		if
		:: bell_s == seen_b -> on_bell[id] = 1
		:: else -> goto woken
		fi
	}
	atomic {
		if
		:: events == seen_e -> on_events[id] = 1
		:: else -> on_bell[id] = 0; goto woken
		fi
	}
}

inline wake_bell_r()
{
	d_step {
#ifdef BROKEN_WAKE_ONE
		// [3] only one, though several wait for different things
		if
		:: on_bell[1] -> on_bell[1] = 0
		:: else -> on_bell[2] = 0
		fi
#else
		on_bell[1] = 0; on_bell[2] = 0; on_bell[3] = 0
#endif
	}
}

// The doorbell: registered edge-triggered in each instance, never drained
bit edge[THREADS];
byte doorbell; // its counter, when it is drained

inline write_doorbell()
{
	d_step {
		doorbell = 1;
		edge[0] = 1; edge[1] = 1; edge[2] = 1; edge[3] = 1
	}
}

bit fin; // TCP: seen by epoll_wait itself, and by the helper thread

active proctype Network()
{
	if
	:: fin = 1
	:: skip
	fi
}

active proctype Helper()
{
end:
	fin;
#ifndef BROKEN_HELPER_SILENT
	events++; // [4] wake_conn()
	if
	:: users > 0 -> d_step { on_events[1] = 0; on_events[2] = 0; on_events[3] = 0 }
	:: else
	fi
#endif
}

// ---------------------------------------------------------------------------------------------- sender

#ifdef BROKEN_NO_FENCE_PUBLISHER
#define FENCE_PUBLISHER(id) true
#else
#define FENCE_PUBLISHER(id) FENCE(id) // [5]
#endif
#ifdef BROKEN_NO_FENCE_WAITER
#define FENCE_WAITER(id) true
#else
#define FENCE_WAITER(id) FENCE(id) // [6]
#endif

active proctype Sender()
{
	byte h, seen, rung, bell, sent;

	do
	:: sent == ITEMS -> break
	:: sent < ITEMS && h - tail < RING ->
		buffer[SENDER]!OP_HEAD;
		h++;
		sent++;
		// wake_receiver()
		seen = waiting_r;
		if
		:: seen & LIGHT
		:: else -> seen = 0; FENCE_PUBLISHER(SENDER); seen = waiting_r
		fi;
		if
		:: (seen & (FUTEX | FD)) && seen != rung ->
			rung = seen;
			FENCE(SENDER); // a locked operation
			bell_s++;
			if
			:: seen & FUTEX -> wake_bell_r()
			:: else
			fi;
			if
			:: seen & FD -> write_doorbell()
			:: else
			fi
		:: else
		fi;
		seen = 0
	:: sent < ITEMS && h - tail >= RING ->
		bell = bell_r;
		buffer[SENDER]!OP_LISTEN_S;
		FENCE_WAITER(SENDER);
		if
		:: h - tail < RING
		:: else ->
			FENCE(SENDER); // a system call
			atomic {
				if
				:: bell_r == bell -> on_bell[SENDER] = 1
				:: else -> goto woken
				fi
			}
end_asleep:
			!on_bell[SENDER]
		fi;
woken:
		atomic { FENCE(SENDER) -> visible(OP_UNLISTEN_S); bell = 0 }
	od
}

// ---------------------------------------------------------------------------------------------- receivers

byte rung_r; // kept by all receivers together
byte polling_asleep;

// membarrier(2): at some moment of the call the sender's buffer is empty
#ifdef BROKEN_NO_BARRIER
#define BARRIER true // [14]
#else
#define BARRIER FENCE(SENDER)
#endif

inline listen(id, op)
{
	atomic { !wait_lock -> wait_lock = 1; light = (waiting_r & LIGHT) != 0; buffer[id]!op }
	if
	:: light -> FENCE(id); BARRIER;
		light = 0;
#ifndef BROKEN_BARRIER_UNLOCKED
		wait_lock = 0
#endif
	:: else -> FENCE_WAITER(id)
	fi
}

inline be_light(id)
{
	if
	:: atomic { MAY_OFFER && !wait_lock && !(waiting_r & (FUTEX | FD | LIGHT)) -> wait_lock = 1; buffer[id]!OP_LIGHT }
	:: skip
	fi
}

// One step: under the receivers' lock. Then wake_sender()
inline take(id)
{
	if
	:: atomic { !rx_lock && head == tail && !fin -> got = 0 }
	:: atomic { !rx_lock && head == tail && fin -> goto done }
	:: atomic { !rx_lock && head != tail -> rx_lock = 1; buffer[id]!OP_TAIL; got = 1 }
		FENCE_PUBLISHER(id);
		seen = waiting_s;
		if
		:: (seen & FUTEX) && seen != rung_r ->
			rung_r = seen;
			FENCE(id);
			bell_r++;
			on_bell[SENDER] = 0
		:: else
		fi;
		seen = 0
	fi
}

proctype Blocked(byte id)
{
	byte bell, ev, seen;
	bit got, light;

	users++;
again:
	take(id);
	if
	:: atomic { got -> got = 0 };
		if
		:: goto again
		:: goto done // the application is busy with it
		fi
	:: else
	fi;
	be_light(id);
	ev = events;
#ifdef BROKEN_BELL_AFTER_CHECK
	listen(id, OP_LISTEN_FUTEX);
	if
	:: head != tail || fin -> goto woken
	:: else
	fi;
	bell = bell_s; // [7] before listening
#else
	bell = bell_s;
#ifdef BROKEN_LISTEN_AFTER_CHECK
	if
	:: head != tail || fin -> goto again
	:: else
	fi;
	listen(id, OP_LISTEN_FUTEX); // [8] before the last look
#else
	listen(id, OP_LISTEN_FUTEX);
	if
	:: head != tail || fin -> goto woken
	:: else
	fi;
#endif
#endif
sleep:
	FENCE(id);
#ifdef BROKEN_BELL_ONLY
	ev = events; // [9] both words, as of before the last look
#endif
	futex_waitv(id, bell, ev);
end_asleep:
	!on_bell[id] || !on_events[id];
	atomic { on_bell[id] = 0; on_events[id] = 0 }
woken:
#ifdef BROKEN_SLEEP_AGAIN
	// [10] each sleep listens anew
	if
	:: head == tail && !fin -> ev = events; bell = bell_s;
		if
		:: head == tail && !fin -> goto sleep
		:: else
		fi
	:: else
	fi;
#endif
	atomic { FENCE(id) && !wait_lock -> visible(OP_UNLISTEN_FUTEX); bell = 0; ev = 0 } goto again;
done:
	users--
}

proctype Polling(byte id)
{
	byte seen;
	bit got, light;

again:
	take(id);
	if
	:: atomic { got -> got = 0 };
		if
		:: goto again
		:: goto done // the application is busy with it
		fi
	:: else
	fi;
	be_light(id);
	listen(id, OP_LISTEN_FD);
	if
	:: head != tail || fin -> goto woken
	:: else
	fi;
	atomic { FENCE(id) -> polling_asleep++ }
end_asleep:
#ifdef BROKEN_DRAINED
	atomic { doorbell || fin -> doorbell = 0; polling_asleep-- } // [11] an event that one takes is gone for the others
#else
	atomic { edge[INSTANCE(id)] || fin -> edge[INSTANCE(id)] = 0; polling_asleep-- }
#endif
woken:
	atomic { FENCE(id) && !wait_lock -> visible(OP_UNLISTEN_FD) }
#if !defined(BROKEN_NO_PASS_ON) && !defined(BROKEN_DRAINED)
	// [12] an edge wakes one thread of an instance: whoever finds something wakes the others
	if
	:: head != tail && waiters_fd > 0 -> write_doorbell()
	:: else
	fi;
#endif
	goto again;
done:
	skip
}

// ---------------------------------------------------------------------------------------------- what must hold

init {
	byte i = 1;

	atomic {
		do
		:: i <= BLOCKED -> run Blocked(i); i++
		:: i > BLOCKED && i <= BLOCKED + POLLING -> run Polling(i); i++
		:: else -> break
		od;
		i = 0
	}
	// Nothing can happen any more
	timeout;
	assert(!on_bell[SENDER] || head - tail >= RING);
	assert(!(on_bell[1] && on_events[1]) || (head == tail && !fin));
	assert(!(on_bell[2] && on_events[2]) || (head == tail && !fin));
	assert(!(on_bell[3] && on_events[3]) || (head == tail && !fin));
	assert(!polling_asleep || (head == tail && !fin))
}
