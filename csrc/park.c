/* park.c: the futex side of mutexes and notes. */
#include "park.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

static long futex(_Atomic uint32_t *word, int op, uint32_t val, const struct timespec *timeout) {
    return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, val, timeout, NULL, FUTEX_BITSET_MATCH_ANY);
}

void mutex_lock_slow(mutex *l) {
    /* The holder runs a few dozen instructions: spin first, sleep if it lost its CPU. */
    for (int i = 0; i < 100; i++) {
        uint32_t free = 0;
        if (load_relaxed(&l->word) == 0 &&
            atomic_compare_exchange_strong_explicit(&l->word, &free, 1, memory_order_acquire,
                                                    memory_order_relaxed))
            return;
        cpu_relax();
    }
    while (atomic_exchange_explicit(&l->word, 2, memory_order_acquire) != 0)
        futex(&l->word, FUTEX_WAIT, 2, NULL);
}

void mutex_wake(mutex *l) { futex(&l->word, FUTEX_WAKE, 1, NULL); }

void note_wake(note *n) {
    if (atomic_exchange_explicit(&n->set, 1, memory_order_release) == 0) futex(&n->set, FUTEX_WAKE, 1, NULL);
}

static bool sleep_once(note *n, int64_t deadline, bool *interrupted) {
    uint32_t one = 1;
    *interrupted = false;
    if (atomic_compare_exchange_strong_explicit(&n->set, &one, 0, memory_order_acquire, memory_order_relaxed))
        return true;
    /* FUTEX_WAIT_BITSET takes an absolute time, the kernel's; ours differs a little. */
    int64_t until = deadline ? clock_kernel() + (deadline - nanotime()) : 0;
    if (deadline && until < 1) until = 1;
    struct timespec ts = {until / SECOND, until % SECOND};
    if (futex(&n->set, FUTEX_WAIT_BITSET, 0, deadline ? &ts : NULL) != 0 && errno == EINTR)
        *interrupted = true;
    one = 1;
    return atomic_compare_exchange_strong_explicit(&n->set, &one, 0, memory_order_acquire,
                                                   memory_order_relaxed);
}

bool note_sleep(note *n, int64_t deadline) {
    bool interrupted;
    for (;;) {
        if (sleep_once(n, deadline, &interrupted)) return true;
        if (deadline && nanotime() >= deadline) return false;
    }
}

bool note_sleep_signals(note *n, int64_t deadline) {
    bool interrupted;
    for (;;) {
        if (sleep_once(n, deadline, &interrupted)) return true;
        if (interrupted || (deadline && nanotime() >= deadline)) return false;
    }
}
