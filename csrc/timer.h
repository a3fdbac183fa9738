/* timer: what ends a wait at a deadline; a 4-ary heap per P (as Go's runtime/time.go).
 *
 * Each heap has a lock: its P adds and runs, other M's run what is due when the owner is
 * busy, and the waiter itself removes its timer when it was woken by something else.
 * `next` (the earliest `when`, INT64_MAX if none) is written under the lock and read
 * without it: a reader that sees an old value only looks once too often or once too late
 * (whoever adds an earlier timer breaks the blocked poll, see sched_timer_added).
 */
#ifndef GMPY_TIMER_H
#define GMPY_TIMER_H

#include "core.h"
#include "park.h"
#include "stat.h"

typedef struct timers timers;
typedef struct timer timer;

struct timer {
    int64_t when;
    timers *heap;             /* the heap that holds it; meaningful while index >= 0 */
    int32_t index;            /* place in the heap; -1: in none. Written under the heap's lock */
    parker *parker;           /* whom to wake, */
    uint64_t seq;             /* in which of its waits; */
    parker *(*fire)(timer *); /* or, if set, what to do instead: see timers_add_fire */
};

struct timers {
    mutex lock;
    timer **at;
    _Atomic int32_t n; /* written under the lock */
    int32_t cap;
    _Atomic int64_t next;
    _Atomic uint32_t firing; /* timers taken out whose wait isn't ended yet */
    _Atomic uint64_t fired;
    hist late; /* by how much they were; written under the lock */
};

void timers_init(timers *h);
void timers_free(timers *h);
/* Arms t to end wait (parker, seq) at `when`. Returns false when memory is short. */
bool timers_add(timers *h, timer *t, int64_t when, parker *k, uint64_t seq);
/* Arms t to call fire at `when`: under the heap's lock, on any thread, without the host.
 * fire returns a parker that it claimed and that is to be unparked, or NULL. After
 * timer_remove, fire isn't running and won't. */
bool timers_add_fire(timers *h, timer *t, int64_t when, parker *(*fire)(timer *));
/* Disarms t if it is armed. Only the owner of the wait calls this. */
void timer_remove(timer *t);
/* Wakes everybody whose time has come; returns how many. */
int timers_run(timers *h, int64_t now);

static inline bool timers_due(timers *h, int64_t now) { return load_relaxed(&h->next) <= now; }

#endif
