/* stat: counters and histograms that only their P writes, so that counting is a plain
 * add. Readers elsewhere see whole values, from slightly different moments. */
#ifndef GMPY_STAT_H
#define GMPY_STAT_H

#include "core.h"

/* Log-linear: 8 buckets to each power of two of nanoseconds, so that a bucket's bounds
 * differ by at most 12.5 %. Bucket b < 8 holds the value b itself. */
enum { HIST_SUB = 8, HIST_BUCKETS = 61 * HIST_SUB };

typedef struct hist {
    _Atomic uint64_t count[HIST_BUCKETS];
    _Atomic int64_t sum, max;
} hist;

static inline uint32_t hist_bucket(int64_t v) {
    if (v < HIST_SUB) return v < 0 ? 0 : (uint32_t)v;
    uint32_t top = 63 - (uint32_t)__builtin_clzll((uint64_t)v);
    return (top - 2) * HIST_SUB + (uint32_t)((uint64_t)v >> (top - 3) & (HIST_SUB - 1));
}

/* The smallest value that falls into bucket b. */
static inline int64_t hist_lower(uint32_t b) {
    if (b < HIST_SUB) return b;
    uint32_t top = b / HIST_SUB + 2;
    return (int64_t)(HIST_SUB + b % HIST_SUB) << (top - 3);
}

static inline void hist_add(hist *h, int64_t v) {
    if (unlikely(v < 0)) v = 0; /* its end was read a moment before its beginning, on another CPU */
    uint32_t b = hist_bucket(v);
    count_add(&h->count[b], 1);
    count_add(&h->sum, v);
    if (v > load_relaxed(&h->max)) store_relaxed(&h->max, v);
}

/* Time spent in a state, as one number that readers see whole: the total; while the state
 * lasts, minus the time when it began. That is then negative, as no total is greater than the
 * time now. Written by one thread at a time. (Who reads just when it ends may see a little
 * more than the next reader: the end's time was taken a moment before.) */
typedef _Atomic int64_t span;

static inline void span_begin(span *s, int64_t now) { count_add(s, -now); }
static inline void span_end(span *s, int64_t now) { count_add(s, now); }
static inline int64_t span_read(span *s) {
    int64_t v = load_acquire(s);
    return v < 0 ? v + nanotime() : v;
}

#define P_COUNTERS(X)                                                                                        \
    X(schedtick)    /* g's run */                                                                            \
    X(created)      /* g's made on this P */                                                                 \
    X(ended)        /* g's that ended on this P */                                                           \
    X(steals)       /* successful raids on another P */                                                      \
    X(stolen)       /* g's brought home by them */                                                           \
    X(robbed)       /* raids of others on this P; the only one that others write, atomically */              \
    X(steal_misses) /* rounds over all victims that found nothing */                                         \
    X(handoffs)     /* times this P was given to another M while its M blocked */                            \
    X(retakes_declared)                                                                                      \
    X(retakes_undeclared)                                                                                    \
    X(preempt_requests)                                                                                      \
    X(preemptions) /* g's that did yield to such a request */                                                \
    X(netpoll_wakes)                                                                                         \
    X(tokens)      /* tokens of other M's served: this P was handed over */                                  \
    X(spread)      /* fresh g's left to others because this M has many pinned ones */                        \
    X(globq_takes) /* looks into the global queue that found something */                                    \
    X(parks)       /* g's that went to sleep here */

typedef struct pstat {
#define X(name) _Atomic uint64_t name;
    P_COUNTERS(X)
#undef X
    hist latency; /* from runnable to running */
    span idle;    /* in the list of idle P's; written under sched.lock */
} pstat;

#endif
