/* api: the core as the outside reads it: plain numbers, copied. */
#ifndef GMPY_API_H
#define GMPY_API_H

#include <stdint.h>

/* cffi: */
typedef struct gmpy_pstat {
    uint32_t id, status, reserved;
    int64_t m;
    uint64_t runq;
    uint64_t counter[16];
    uint64_t timers, timers_fired;
    int64_t timers_worst_late;
    int64_t latency_max;
} gmpy_pstat;

typedef struct gmpy_stat {
    uint32_t procs, idle_procs, reserve, threads, spinning, blocked_threads, policy;
    uint64_t goroutines, created, globq, latq, netpoll_waiters, external;
    uint64_t runnable, running, waiting, fresh, stranded;
} gmpy_stat;

typedef struct gmpy_hog {
    uint64_t g; /* its id */
    int64_t m, ran_ns;
} gmpy_hog;

typedef struct gmpy_hunger {
    int64_t starving_ns; /* given: runnable, or running, for longer counts */
    uint64_t goroutines, runnable, starved;
    uint64_t oldest_g; /* the one that is runnable for longest */
    int64_t oldest_ns;
    /* Since the last look: times that a g got its turn; and how long they waited for it,
     * those that wait now included. */
    uint64_t runs;
    int64_t wait_mean_ns, wait_p99_ns;
    uint64_t preempt_requests;
    uint32_t hogs; /* in hog, who runs for longest first */
    gmpy_hog hog[8];
    /* between two looks */
    uint64_t seen[496], seen_requests;
} gmpy_hunger;

const char *gmpy_counter_name(uint32_t i);
uint32_t gmpy_counters(void);
uint32_t gmpy_p_count(void);
int gmpy_p_stat(uint32_t i, gmpy_pstat *out);
uint32_t gmpy_hist_buckets(void);
int64_t gmpy_hist_lower(uint32_t bucket);
int gmpy_p_latency(uint32_t i, uint64_t *counts);
void gmpy_stat_read(gmpy_stat *out, int walk);
int gmpy_policy_by_name(const char *name);
const char *gmpy_policy_name(uint32_t policy);
int gmpy_deadlocked(void);
void gmpy_tune(int64_t spin_ns, int64_t steal_grace_ns);
void gmpy_hunger_look(gmpy_hunger *h);
int64_t gmpy_slice(int64_t ns);
void gmpy_preempt_now(void);

/* trace.h */
typedef struct gmpy_trace_sum {
    uint64_t events, lost;
    int64_t begin, end;
    int error, exact;
} gmpy_trace_sum;
int gmpy_trace_start(int fd, uint32_t limit);
int gmpy_trace_stop(gmpy_trace_sum *out);
const char *gmpy_trace_type(uint32_t i); /* its name; NULL: there are no more */
/* end */

#endif
