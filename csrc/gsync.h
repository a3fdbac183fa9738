/* gsync: a lock and a wait group for g's and plain threads alike.
 *
 * glock: word 0 free, 1 held, 2 held and maybe waited for. Uncontended it is one CAS.
 * As with a futex mutex, whoever was woken takes the lock with 2, so that its release
 * looks at the queue again. Newcomers may overtake (that is fast), until the first in
 * line has waited for 1 ms: then release hands the lock to it without freeing it (Go's
 * starvation mode).
 */
#ifndef GMPY_GSYNC_H
#define GMPY_GSYNC_H

#include "g.h"

typedef struct glock {
    _Atomic uint32_t word;
    mutex lock; /* of the queue */
    waitq waiters;
    _Atomic uint32_t nwaiters;
} glock;

static inline bool glock_try(glock *l) {
    uint32_t free = 0;
    return atomic_compare_exchange_strong_explicit(&l->word, &free, 1, memory_order_acquire,
                                                   memory_order_relaxed);
}
/* Looks for some microseconds whether the lock gets free, and takes it (true). Only where another
 * M may be about to release it, and not when others are in line. again: see below. Two that
 * want it all the time otherwise wake each other for each turn. */
bool glock_spin(glock *l, bool again);
/* Takes the lock (true), or begins a wait of k's owner. again: it was woken without having
 * been handed the lock, and goes to the front of the queue; since: when it came. */
bool glock_wait(glock *l, parker *k, waiter *w, int64_t since, bool again);
/* Takes w out after a wake-up by something else. */
void glock_unwait(glock *l, waiter *w);
/* Who waits, first in line first: ids of g's, 0 for plain threads; at most `room` of them.
 * Returns how many wait. */
uint32_t glock_line(glock *l, uint64_t *ids, uint32_t room);
/* False: it wasn't held. */
bool glock_release(glock *l);

typedef struct waitgroup {
    mutex lock;
    int64_t count;
    waitq waiters;
} waitgroup;

/* False: the count would be negative; nothing was changed. */
bool waitgroup_add(waitgroup *wg, int64_t n);
/* True: the count is 0. Otherwise a wait of k's owner begins (k may be NULL: only look). */
bool waitgroup_wait(waitgroup *wg, parker *k, waiter *w);
void waitgroup_unwait(waitgroup *wg, waiter *w);

#endif
