/* check: the little that every test program here shares.
 *
 * A program is a list of RUN(test); each prints 'ok name' or, before it aborts, 'FAILED
 * name'. A watchdog turns a hang into such a failure, after a look at `check_dump`.
 */
#ifndef CHECK_H
#define CHECK_H

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../core.h"

__attribute__((weak)) const char *check_name = "?";
__attribute__((weak)) void (*check_dump)(void); /* shows what hangs; called in a signal handler */

static inline void check_failed(const char *file, int line, const char *what) {
    fprintf(stderr, "%s:%d: %s\n", file, line, what);
    abort();
}

#define CHECK(x)                                                                                             \
    do {                                                                                                     \
        if (!(x)) check_failed(__FILE__, __LINE__, #x);                                                      \
    } while (0)

#define CHECK_EQ(a, b)                                                                                       \
    do {                                                                                                     \
        long long a_ = (long long)(a), b_ = (long long)(b);                                                  \
        if (a_ != b_) {                                                                                      \
            fprintf(stderr, "%lld != %lld\n", a_, b_);                                                       \
            check_failed(__FILE__, __LINE__, #a " == " #b);                                                  \
        }                                                                                                    \
    } while (0)

static void check_signal(int sig) {
    signal(SIGABRT, SIG_DFL);
    fprintf(stderr, sig == SIGALRM ? "hangs\n" : "aborted\n");
    if (check_dump) {
        void (*dump)(void) = check_dump;
        check_dump = NULL;
        dump();
    }
    printf("FAILED %s\n", check_name);
    fflush(stdout);
    abort();
}

static inline void check_run(const char *name, void (*test)(void), unsigned seconds) {
    check_name = name;
    signal(SIGALRM, check_signal);
    signal(SIGABRT, check_signal);
    const char *patience = getenv("TEST_DEADLINE");
    alarm(patience ? (unsigned)atoi(patience) : seconds);
    int64_t start = nanotime();
    test();
    alarm(0);
    printf("ok %s (%.2f s)\n", name, (double)(nanotime() - start) / 1e9);
    fflush(stdout);
}

/* On a busy machine tens of thousands of wake-ups take long; only a true hang waits for all of this. */
#define RUN(test) check_run(#test, test, 120)

/* How much a stress test does: TEST_SCALE percent of the usual, for long hunts or slow
 * sanitizers. */
static inline int64_t scaled(int64_t n) {
    const char *percent = getenv("TEST_SCALE");
    n = percent ? n * atoi(percent) / 100 : n;
    return n > 0 ? n : 1;
}

/* Runs body(0) ... body(n - 1) at the same time, each on its own thread. */
typedef struct check_thread {
    pthread_t thread;
    void (*body)(int);
    int index;
    pthread_barrier_t *start;
} check_thread;

static void *check_thread_main(void *arg) {
    check_thread *t = arg;
    pthread_barrier_wait(t->start);
    t->body(t->index);
    return NULL;
}

static inline void threads(int n, void (*body)(int)) {
    check_thread t[16];
    pthread_barrier_t start;
    CHECK(n <= 16);
    pthread_barrier_init(&start, NULL, (unsigned)n);
    for (int i = 0; i < n; i++) {
        t[i] = (check_thread){.body = body, .index = i, .start = &start};
        CHECK(pthread_create(&t[i].thread, NULL, check_thread_main, &t[i]) == 0);
    }
    for (int i = 0; i < n; i++) pthread_join(t[i].thread, NULL);
    pthread_barrier_destroy(&start);
}

static inline uint64_t seed(int i) {
    const char *s = getenv("TEST_SEED");
    return 0x9E3779B97F4A7C15ULL * (uint64_t)(i + 1) + (s ? strtoull(s, NULL, 10) : 0);
}

static inline void pause_ns(int64_t ns) {
    struct timespec ts = {ns / SECOND, ns % SECOND};
    nanosleep(&ts, NULL);
}

#endif
