/* api: the core as the outside reads it: plain numbers, copied. Any thread may ask, at any
 * time, also without a runtime (all is zero then) and while one starts or stops. */
#ifndef GMPY_API_H
#define GMPY_API_H

#include <stdint.h>

/* cffi: */
typedef struct gmpy_pstat {
    uint32_t id, status, reserved;
    int64_t m;
    uint64_t runq;
    uint64_t counter[32];
    uint64_t timers, timers_fired;
    int64_t timers_worst_late;
    int64_t latency_max;
    int64_t idle_ns;
} gmpy_pstat;

typedef struct gmpy_mstat {
    uint32_t id, doing; /* doing: see gmpy_m_doing */
    int64_t p;          /* the P it holds; -1: none */
    int64_t g;          /* the id of the g it runs; -1: none */
    uint64_t bound;     /* runnable g's that are pinned to it */
    uint32_t pinned;    /* live ones */
    uint8_t polling, solo, locked, undeclared;
    int64_t run_ns;   /* how long that g has run since it parked or yielded by itself */
    int64_t taken_ns; /* how long ago its P was taken, if it was */
} gmpy_mstat;

typedef struct gmpy_gstat {
    uint64_t id;
    uint32_t status;
    uint32_t reason;
    int64_t m;
    int64_t wait_ns;
} gmpy_gstat;

typedef struct gmpy_hist {
    uint64_t total;
    int64_t sum, max; /* ns */
    uint64_t count[488];
} gmpy_hist;

typedef struct gmpy_stat {
    uint32_t procs, idle_procs, reserve, threads, spinning, blocked_threads, policy;
    uint64_t goroutines, created, globq, latq, netpoll_waiters, external;
    uint64_t runnable, running, waiting, fresh, stranded;
    uint32_t idle_threads, running_runtime;
    uint64_t counter[32]; /* over all P's */
    uint64_t timers, timers_fired;
    int64_t idle_ns, poll_ns;
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
    uint64_t seen[488], seen_requests;
} gmpy_hunger;

const char *gmpy_counter_name(uint32_t i);
uint32_t gmpy_counters(void);
uint32_t gmpy_p_count(void);
int gmpy_p_stat(uint32_t i, gmpy_pstat *out);
uint32_t gmpy_hist_buckets(void);
int64_t gmpy_hist_lower(uint32_t bucket);
uint32_t gmpy_hist_bucket(int64_t ns);
int gmpy_p_latency(uint32_t i, uint64_t *counts);
void gmpy_hist_read(int timers, gmpy_hist *out);
void gmpy_stat_read(gmpy_stat *out, int walk);
uint32_t gmpy_m_stats(gmpy_mstat *out, uint32_t max);
const char *gmpy_m_doing(uint32_t doing);
uint32_t gmpy_g_stats(gmpy_gstat *out, uint32_t max, uint32_t *at);
int gmpy_policy_by_name(const char *name);
const char *gmpy_policy_name(uint32_t policy);
uint64_t gmpy_deadlocked(void);
const char *gmpy_left_told(void);
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
