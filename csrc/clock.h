/* clock: nanotime(), read once or twice for every switch.
 *
 * Where the kernel itself keeps time by the CPU's invariant time-stamp counter (x86-64), we
 * read that counter: 10 ns instead of the vDSO's 24 (measured). clock_sync notes pairs of
 * (counter, CLOCK_MONOTONIC); from two of them, at least 20 ms apart, comes the rate, and each
 * further one corrects offset and rate, so that the error stays far below a microsecond for
 * as long as sysmon calls it (about once a second while anything runs, and first of all after
 * a sleep).
 *
 * The parameters are published whole: a reader takes a pointer (acquire) to a record that
 * won't be written again until CLOCK_RECORDS - 1 later ones have been, many seconds later. */
#ifndef GMPY_CLOCK_H
#define GMPY_CLOCK_H

#include "core.h"

typedef struct clock_record {
    uint64_t tsc;
    int64_t ns;
    uint64_t mult; /* nanoseconds per tick, times 2^32; 0: no counter, ask the kernel */
} clock_record;

extern _Atomic(clock_record *) clock_now_record; /* NULL until it is calibrated */

static inline int64_t clock_kernel(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * SECOND + ts.tv_nsec;
}

static inline int64_t nanotime(void) {
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
    clock_record *r = load_acquire(&clock_now_record);
    if (likely(r)) {
        uint64_t ticks = __builtin_ia32_rdtsc() - r->tsc;
        return r->ns + (int64_t)(((unsigned __int128)ticks * r->mult) >> 32);
    }
#endif
    return clock_kernel();
}

/* Takes another pair. From one thread at a time (sysmon). */
void clock_sync(void);

#endif
