// SPDX-License-Identifier: BSD-2-Clause
// The cut-over of one direction: promote, sender's end, receiver asks back, withdrawn offer, death of the sender.
// What is modelled and what is not: README.md. Rules marked [n] are broken one at a time by run.sh.

#ifndef BYTES
#define BYTES 4 // the stream is 1, 2, ... BYTES
#endif
#ifndef CAP
#define CAP 5 // what both kernels hold
#endif
#ifndef RING
#define RING 2
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef READERS
#define READERS 2
#endif

// TCP carries payload (1 .. BYTES) and frames. END is two bytes long, so that it can arrive in parts; the first may be sent ahead, as a probe.
#define CUT 100
#define END1 101
#define END2 110 // + ring position
#ifdef BROKEN_NO_CUT
#define FRAMES_SIZE 2 // [19] nothing wakes who sleeps in the kernel
#else
#define FRAMES_SIZE 3
#endif

#define IS_PAYLOAD(x) ((x) >= 1 && (x) <= BYTES)
#define VOID 255 // `end` of a round that was never carried by the ring

chan tcp = [CAP] of { byte };
#define SOME (len(tcp) > 0)
#define ROOM (len(tcp) < CAP)
bit fin; // follows what is in tcp

// struct rlm_slot_shared, the sender's and the receiver's
byte head, cut, end_at, tx_round;
byte tail, rx_ready, rx_ask, rx_past;
byte ring[RING];

// The kernels' counts
byte sent, taken;

// What the sender's application was told is sent
byte accepted;

// ---------------------------------------------------------------------------------------------- sender

bit killed;

active proctype Killer()
{
	if
	:: killed = 1
	:: skip
	fi
}

#define OWES (o_cut || o_end || resend_at < resend_to)

#ifdef BROKEN_END_SKIPS_OWED
#define MAY_SEND true
#else
#define MAY_SEND (!OWES) // [1] newer bytes wait for what is owed
#endif

#ifdef BROKEN_PROMOTE_OWING
#define MAY_PROMOTE true
#else
#define MAY_PROMOTE (!OWES) // [3]
#endif

#ifdef BROKEN_END_BEFORE_PAST
#define IS_PAST true
#else
#define IS_PAST (rx_past == r) // [16] whoever is in the kernel since before the cut would take what follows END for payload
#endif

#ifdef STAYS // nobody ends a round: what must go on by itself, does
#define MAY_END false
#else
#define MAY_END true
#endif

active proctype Sender()
{
	byte r, n, next = 1, resend_at, resend_to;
	byte o_end; // bytes of END that TCP has not taken
	bit o_cut, on_ring, probed;

	{
		do
		// What is owed, by whoever comes next
		:: atomic { o_cut && ROOM -> tcp!CUT; sent++; o_cut = 0 }
		:: atomic { !o_cut && o_end == 2 && ROOM -> tcp!END1; sent++; o_end = 1 }
		:: atomic { !o_cut && o_end == 1 && ROOM -> tcp!END2 + end_at; sent++; o_end = 0; probed = 0 }
		:: atomic { !o_cut && on_ring && !probed && MAY_END && ROOM -> tcp!END1; sent++; probed = 1 }
		:: atomic {
			!o_cut && !o_end && resend_at < resend_to && ROOM ->
			tcp!ring[resend_at % RING];
			sent++;
			resend_at++;
			if
			:: resend_at == resend_to -> resend_at = 0; resend_to = 0
			:: else
			fi
		   }

		// Payload on TCP
		:: atomic {
			!on_ring && next <= BYTES && ROOM && MAY_SEND ->
			tcp!next; sent++; accepted++; next++
		   }

		// Payload on the ring
		:: on_ring && next <= BYTES && head - tail < RING ->
#ifdef BROKEN_HEAD_BEFORE_BYTES
			d_step { head++; accepted++; next++ }
			ring[(head - 1) % RING] = next - 1;
#else
			ring[head % RING] = next;
			d_step { head++; accepted++; next++ } // [2] release
#endif

		// Promote
		:: atomic {
			!on_ring && rx_ready > r && rx_ask < rx_ready && MAY_PROMOTE ->
			n = rx_ready
		   }
#ifdef BROKEN_CUT_AFTER_ROUND
			d_step { tx_round = 2 * n - 1; r = n }
			cut = sent;
#else
			cut = sent; // [4] before tx_round
#ifdef BROKEN_CUT_FRAME_BEFORE_STORE
			atomic { ROOM -> tcp!CUT; sent++ }
#endif
			d_step { tx_round = 2 * n - 1; r = n }
#endif
			// Full fence
			if
#ifndef BROKEN_NO_SECOND_LOOK
			:: rx_ask >= n -> // [5] the offer was withdrawn meanwhile: nothing has happened yet
				end_at = VOID;
				tx_round = 2 * n
#endif
			:: else ->
				d_step {
					on_ring = 1;
#if !defined(BROKEN_CUT_FRAME_BEFORE_STORE) && !defined(BROKEN_NO_CUT)
					o_cut = 1 // [6] after tx_round
#endif
				}
			fi

		// End, because the sender wants it
		:: on_ring && MAY_END && IS_PAST ->
			end_at = head;
			d_step { tx_round = 2 * r; on_ring = 0; o_end = 2 - probed }

		// End, because the receiver asked
		:: on_ring && rx_ask == r && IS_PAST ->
			end_at = tail;
			d_step {
				tx_round = 2 * r;
				on_ring = 0;
				o_end = 2 - probed;
#ifdef BROKEN_RESEND_FROM_HEAD
				resend_at = head; // [7]
#else
				resend_at = end_at;
#endif
				resend_to = head
			}

		:: next > BYTES && !o_cut && resend_at == resend_to -> break // END, if owed, has nothing behind it
		od
	} unless { killed }
	fin = 1
}

// ---------------------------------------------------------------------------------------------- receiver

mtype = { PLAIN, READY, DRAIN, ON_RING, FRAMES };
mtype state = PLAIN;

byte round, n_cut, frame_got, frame_pos;
byte inside; // threads in a receive of the kernel
bit rx_lock, asked, eof, left;

// The last round that ended: its `end`, the head it had, the TCP position after END
byte last_end, last_head, last_pos;

byte expected = 1;

#define MISSING (last_head > last_end && taken - last_pos < last_head - last_end)

inline deliver(x)
{
	assert(x == expected);
	expected++
}

#define BEGUN (tx_round >= 2 * round - 1)
#define PAST (rx_past == round)

#define IS_VOID (tx_round == 2 * round && end_at == VOID)

// Is the offered round begun, or void?
inline look()
{
	if
	:: IS_VOID && (state == READY || state == DRAIN || state == ON_RING) ->
		state = PLAIN; asked = 0; n_cut = 0; frame_got = 0
	:: !IS_VOID && state == READY && BEGUN -> n_cut = cut; state = DRAIN
	:: else
	fi
}

// The TCP stream is at its end, with `from` .. `to` of the ring still to come
inline finish(from, to)
{
	at = from;
#ifndef BROKEN_EOF_FORGETS_RESEND
	do
	:: at < to -> deliver(ring[at % RING]); at++ // [9]
	:: else -> break
	od;
#endif
	at = 0;
	eof = 1;
	assert(expected == accepted + 1)
}

#ifdef BROKEN_TWO_READERS
#define ALONE true
#define FEW true
#else
#define ALONE (inside == 0) // [10]
#define FEW (inside <= 1)
#endif

#ifdef BROKEN_PAST_WITH_READER
#define NONE_INSIDE true
#else
#define NONE_INSIDE (inside == 0) // [8]
#endif

#define KERNEL 1 // why a thread is in the kernel
#define TO_CUT 2
#define TO_END 3
#define ALL 100 // more than there is

proctype Reader()
{
	byte why, limit, n, np, nf, over, x, c, at;

again:
	do
	:: eof -> break

	// Somebody without librlm reads
	:: atomic { !eof && left && SOME -> tcp?x; deliver(x) }
	:: atomic { !eof && left && !SOME && fin -> eof = 1; assert(expected == accepted + 1) }

	// The ring is open as soon as everything before the cut was taken, whoever is in the kernel
	:: atomic { !eof && !left && !rx_lock && state == READY && BEGUN && (inside == 0 || taken >= cut) -> look() }

	// Nobody is there any more since before the cut: all that the kernel gave is accounted for
	:: atomic {
		!eof && !left && !rx_lock && (state == DRAIN || state == ON_RING) && !PAST && !IS_VOID && NONE_INSIDE ->
		if
		:: taken > n_cut -> frame_got = taken - n_cut
		:: else -> frame_got = 0
		fi;
		rx_past = round
	   }

	// A round that never was
	:: atomic { !eof && !left && (state == DRAIN || state == ON_RING) && IS_VOID -> look() }

	// Into the kernel
	:: atomic {
		!eof && !left && !rx_lock &&
		(state == PLAIN || (state == READY && !BEGUN && ALONE)) ->
		inside++; why = KERNEL;
		if
		:: limit = ALL
		:: limit = 1
		fi
	   } goto kernel
	:: atomic { !eof && !left && state == DRAIN && taken < n_cut && ALONE ->
		inside++; why = TO_CUT; limit = n_cut - taken } goto kernel
	:: atomic { !eof && !left && state == FRAMES && PAST && frame_got < FRAMES_SIZE && ALONE ->
		inside++; why = TO_END; limit = FRAMES_SIZE - frame_got } goto kernel

	// The ring
	:: atomic { !eof && !left && state == DRAIN && taken >= n_cut && !IS_VOID ->
		state = ON_RING }
	:: atomic {
		!eof && !left && !rx_lock && state == ON_RING &&
		((tx_round == 2 * round - 1 && tail < head && (!asked || fin)) ||
		 (tx_round == 2 * round && end_at != VOID && tail < end_at)) ->
		rx_lock = 1
	   }
#ifdef BROKEN_FREE_BEFORE_READ
		tail++;
		atomic { deliver(ring[(tail - 1) % RING]); rx_lock = 0 }
#else
		atomic { deliver(ring[tail % RING]) }
		d_step { tail++; rx_lock = 0 } // [11] release, after the bytes were read
#endif

	// The end of the round
	:: atomic { !eof && !left && !rx_lock && state == ON_RING && tx_round == 2 * round && end_at != VOID && tail >= end_at ->
		state = FRAMES }
	:: atomic {
		!eof && !left && state == FRAMES && frame_got == FRAMES_SIZE ->
		assert(frame_pos == end_at && tail == end_at);
		last_end = end_at; last_head = head; last_pos = n_cut + FRAMES_SIZE;
#ifndef BROKEN_TAIL_STAYS
		tail = head; // [12] C..head came by TCP: the next round begins with an empty ring
#endif
		n_cut = 0; frame_pos = 0; frame_got = 0;
		asked = 0; state = PLAIN
	   }

	// The end of the stream. `fin` is seen before the words are looked at a last time
	:: atomic { !eof && !left && !rx_lock && state == ON_RING && fin && tx_round == 2 * round - 1 && tail == head ->
		finish(tail, tail) }
	od;
	goto done;

kernel:
	atomic {
		(SOME || fin) ->
		n = 0; np = 0; nf = 0;
		do
		:: n < limit && SOME ->
			tcp?x;
			n++;
			taken++;
			if
			:: !IS_PAYLOAD(x) ->
				nf++;
				if
				:: x >= END2 -> frame_pos = x - END2
				:: else
				fi
			:: IS_PAYLOAD(x) && nf == 0 -> np++; deliver(x)
			:: else -> assert(false) // payload behind frames: it could not be told from what comes before the cut
			fi
		:: else -> break
		od;
		x = 0
	}
#ifdef BROKEN_TORN_COUNT
	c = taken + len(tcp); // tcpi_bytes_received
	c = c - len(tcp);     // SIOCINQ [13] later
#endif
	atomic {
		!rx_lock ->
		inside--;
#ifndef BROKEN_TORN_COUNT
		c = taken;
#endif
#ifdef BROKEN_FIN_COUNTS
		c = c + fin; // [14] FIN takes a sequence number, but is no byte
#endif
		if
		:: left -> assert(n == 0) // never: nobody leaves with a thread inside
		:: else
		fi;
		if
		:: why != TO_END ->
#ifdef BROKEN_EOF_NO_LOOK
			if
			:: n > 0 -> look()
			:: else // [15] 0 from the kernel is a return, too
			fi;
#else
			look();
#endif
			assert(!(n == 0 && state == DRAIN && taken < n_cut)); // the cut lies within the stream
			if
			:: (state == DRAIN || state == ON_RING) && n > 0 ->
				if
				:: c > n_cut -> over = c - n_cut
				:: else -> over = 0
				fi;
				assert(over - frame_got == nf && nf <= 2);
				frame_got = over
			:: (state == PLAIN || state == READY || state == FRAMES) && n > 0 ->
				assert(nf == 0)
			:: n == 0 && (state == PLAIN || state == READY) && !eof ->
				if
				:: MISSING -> finish(last_end + taken - last_pos, last_head)
				:: else -> finish(0, 0)
				fi
			:: else
			fi
		:: why == TO_END ->
			assert(nf == n);
			frame_got = frame_got + n;
			if
			:: n == 0 && !eof -> finish(end_at, head)
			:: else
			fi
		fi;
		n = 0; np = 0; nf = 0; over = 0; c = 0; limit = 0; why = 0
	}
	goto again;
done:
	skip
}

// The receiver's decisions: offers, asking back, leaving
#ifdef BROKEN_ASK_WITHOUT_LOCK
#define LOCK_FREE true
#else
#define LOCK_FREE (!rx_lock) // [17] nobody is between reading the ring and moving tail
#endif

#ifdef BROKEN_LEAVE_EARLY
#define ALL_HERE true
#else
#define ALL_HERE (last_head <= last_end || taken - last_pos + len(tcp) >= last_head - last_end) // [18] C..head is in this kernel
#endif

active proctype Control()
{
	byte i;

	atomic {
		do
		:: i < READERS -> run Reader(); i++
		:: else -> break
		od;
		i = 0
	}
	do
	:: break
	:: atomic { !left && !eof && state == PLAIN && !rx_lock && round < ROUNDS && FEW ->
		round++; asked = 0; state = READY; rx_ready = round }
	:: atomic { !eof && MAY_END && !asked && LOCK_FREE && (state == READY || state == DRAIN || state == ON_RING) ->
		asked = 1; rx_ask = round; i = round }
		// Full fence
		atomic {
			if
			:: round == i && state == READY && tx_round < 2 * round - 1 -> state = PLAIN; asked = 0 // withdrawn
			:: else
			fi;
			i = 0
		}
	:: atomic {
		!eof && state == PLAIN && inside == 0 && ALL_HERE ->
		left = 1; break
	   }
	od
}
