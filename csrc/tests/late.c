/* late.c: delays, see core.h. Most accesses pass at once; the others wait for a moment in which
 * another thread does a step, a few, or all that it has to do. */
#include "../core.h"

#ifdef GMPY_LATE
#include <sched.h>

static _Thread_local uint64_t state;
static _Atomic uint64_t threads;

void late(void) {
    if (!state) state = 0x9E3779B97F4A7C15ULL * (atomic_fetch_add(&threads, 1) + 1);
    uint32_t r = rand_next(&state);
    if (likely(r % 64)) return;
    switch (r >> 8 & 7) {
    case 0: nanosleep(&(struct timespec){0, (r >> 16) * 2}, NULL); break; /* 60 to 200 us */
    case 1: sched_yield(); break;
    default:
        for (uint32_t i = (r >> 16) % 512; i > 0; i--) cpu_relax();
    }
}
#endif
