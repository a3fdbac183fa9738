/* api: the core as the outside reads it: plain numbers, copied. */
#ifndef GMPY_API_H
#define GMPY_API_H

#include <stdint.h>

/* cffi: */
typedef struct gmpy_pstat {
    uint32_t id, status;
    int64_t m;
    uint64_t runq;
    uint64_t counter[16];
    uint64_t timers, timers_fired;
    int64_t timers_worst_late;
    int64_t latency_max;
} gmpy_pstat;

typedef struct gmpy_stat {
    uint32_t procs, idle_procs, threads, spinning, blocked_threads, policy;
    uint64_t goroutines, created, globq, netpoll_waiters, external;
    uint64_t runnable, running, waiting, fresh, stranded;
} gmpy_stat;

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
