// SPDX-License-Identifier: BSD-2-Clause
// A lock that a thread may keep (lib/core/lock.h): its keeper goes in and out with plain stores, others take it away with membarrier(2).
// Broken rules end in two threads inside, or in one that sleeps for ever.
// What is modelled and what is not: README.md. Rules marked [n] are broken one at a time by run.sh.

#ifndef THREADS
#define THREADS 3
#endif
#ifndef TAKES
#define TAKES 3
#endif

#define FREE 0
#define OWNED(t) (1 + (t))
#define KEPT(t) (1 + THREADS + (t))
#define IS_KEPT(w) (w > THREADS)
#define KEEPER(w) (w - 1 - THREADS)

byte word; // changed by locked instructions only

// Each thread's cell, and its stores to it that others do not see yet
#ifdef BROKEN_ONE_CELL
#define CELL(t) 0 // [1] a cell has one writer
#else
#define CELL(t) (t)
#endif
bit cell[THREADS];
chan buffer[THREADS] = [3] of { bit };
byte outs[THREADS];

#define FENCE(t) (len(buffer[t]) == 0)

active [THREADS] proctype Memory()
{
	byte t = _pid;
	bit in;

end:
	do
	:: atomic { buffer[t]?in -> cell[CELL(t)] = in; in = 0 }
	od
}

byte inside;

inline step_out()
{
#ifdef BROKEN_LOOK_FIRST
	seen = word;
	buffer[t]!0; // [2] before the look: who comes later finds the cell empty
#else
	buffer[t]!0;
	seen = word;
#endif
	if
	:: !IS_KEPT(seen) ->
#ifndef BROKEN_SILENT
		atomic { FENCE(t) -> outs[t]++ } // [3] and wakes
#endif
	:: else
	fi;
	seen = 0
}

// From the keeper k: word is ours already
inline empty_cell()
{
#ifndef BROKEN_NO_BARRIER
	// [4] each other thread's buffer is empty at some moment of the call
	j = 0;
	do
	:: j < THREADS -> FENCE(j); j++
	:: else -> break
	od;
	j = 0;
#endif
	do
	:: seen = outs[k];
		if
#ifdef BROKEN_NO_WAIT
		:: break // [5] until the cell is empty
#endif
		:: !cell[CELL(k)] -> break
		:: else
		fi;
		if
		:: outs[k] == seen ->
end_asleep:
			outs[k] != seen
		:: else
		fi
	od;
	seen = 0
}

proctype Thread(byte t)
{
	byte takes, seen, k, j;
	bit kept;

	do
	:: takes == TAKES -> break
	:: takes < TAKES ->
		takes++;
		if
		:: word == KEPT(t) ->
			buffer[t]!1;
#ifdef BROKEN_NO_SECOND_LOOK
			kept = 1 // [6] after the store
#else
			if
			:: word == KEPT(t) -> kept = 1
			:: else -> step_out()
			fi
#endif
		:: else
		fi;
		if
		:: kept
		:: !kept ->
			if
			:: atomic { FENCE(t) && word == FREE -> word = OWNED(t) }
			:: atomic { FENCE(t) && IS_KEPT(word) -> k = KEEPER(word); word = OWNED(t) };
				empty_cell();
				k = 0
			fi
		fi;
		inside++;
		assert(inside == 1);
		inside--;
		if
		:: kept -> step_out(); kept = 0
		:: atomic { !kept && FENCE(t) -> word = FREE }
		:: atomic { !kept && FENCE(t) -> word = KEPT(t) }
		fi
	od
}

init {
	byte t;

	atomic {
		do
		:: t < THREADS -> run Thread(t); t++
		:: else -> break
		od
	}
	// Nothing can happen any more
	timeout;
	assert(word == FREE || IS_KEPT(word))
}
