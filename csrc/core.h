/* core: the few things every module of the scheduler core shares.
 *
 * The core is C11 without Python. Vocabulary (Go's): g is a green thread, m an OS
 * thread, p the right to run host code. "Host" is whoever runs the g's: the bridge
 * to Python, or a test program.
 *
 * Times are nanoseconds of CLOCK_MONOTONIC in int64_t (nanotime, clock.h); a deadline of 0
 * means none.
 */
#ifndef GMPY_CORE_H
#define GMPY_CORE_H

#include <assert.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define CACHE_LINE 64
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define out_of_line __attribute__((noinline))

#define containerof(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* Built with GMPY_LATE, for tests: a thread loses some time now and then before an access that
 * orders it against others, so that rare interleavings are tried (tests/late.c). */
#ifdef GMPY_LATE
void late(void);
#else
#define late() ((void)0)
#endif

#define load_relaxed(p) atomic_load_explicit((p), memory_order_relaxed)
#define load_acquire(p) (late(), atomic_load_explicit((p), memory_order_acquire))
#define load_seq(p) (late(), atomic_load_explicit((p), memory_order_seq_cst))
#define store_relaxed(p, v) atomic_store_explicit((p), (v), memory_order_relaxed)
#define store_release(p, v) (late(), atomic_store_explicit((p), (v), memory_order_release))
#define store_seq(p, v) (late(), atomic_store_explicit((p), (v), memory_order_seq_cst))

/* A counter with one writer at a time: readers elsewhere see a whole value. */
#define count_add(p, n) store_relaxed((p), load_relaxed(p) + (n))

#define MICROSECOND 1000LL
#define MILLISECOND 1000000LL
#define SECOND 1000000000LL

typedef struct g g;
typedef struct m m;
typedef struct p p;
typedef struct parker parker;
typedef struct waiter waiter;

/* Link of a g (or of an m's token) in whichever one queue holds it. */
typedef struct qlink {
    _Atomic(struct qlink *) next;
    bool is_token;
} qlink;

static inline void cpu_relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* xorshift64*: cheap randomness for victims and select order; never zero. */
static inline uint32_t rand_next(uint64_t *state) {
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return (uint32_t)((x * 0x2545F4914F6CDD1DULL) >> 32);
}

#include "clock.h"

#endif
