#include "api.h"

#include "netpoll.h"
#include "scheduler.h"

#define X(name) #name,
static const char *const names[] = {P_COUNTERS(X)};
#undef X
enum { COUNTERS = sizeof names / sizeof *names };
_Static_assert(COUNTERS <= 16, "gmpy_pstat.counter is too short");

const char *gmpy_counter_name(uint32_t i) { return i < COUNTERS ? names[i] : ""; }
uint32_t gmpy_counters(void) { return COUNTERS; }
uint32_t gmpy_p_count(void) { return S.maxp; }

int gmpy_p_stat(uint32_t i, gmpy_pstat *out) {
    p *pp = i < MAX_P ? load_acquire(&S.allp[i]) : NULL;
    if (!pp) return -1;
    m *mp = load_acquire(&pp->m);
    *out = (gmpy_pstat){
        .id = pp->id,
        .status = load_relaxed(&pp->status),
        .reserved = load_relaxed(&pp->reserved),
        .m = mp ? (int64_t)mp->id : -1,
        .runq = runq_len(&pp->runq),
        .timers = (uint64_t)pp->timers.n,
        .timers_fired = load_relaxed(&pp->timers.fired),
        .timers_worst_late = load_relaxed(&pp->timers.worst_late),
        .latency_max = load_relaxed(&pp->stat.latency.max),
    };
    uint32_t at = 0;
#define X(name) out->counter[at++] = load_relaxed(&pp->stat.name);
    P_COUNTERS(X)
#undef X
    return 0;
}

uint32_t gmpy_hist_buckets(void) { return HIST_BUCKETS; }
int64_t gmpy_hist_lower(uint32_t bucket) { return hist_lower(bucket); }

int gmpy_p_latency(uint32_t i, uint64_t *counts) {
    p *pp = i < MAX_P ? load_acquire(&S.allp[i]) : NULL;
    if (!pp) return -1;
    for (uint32_t b = 0; b < HIST_BUCKETS; b++) counts[b] = load_relaxed(&pp->stat.latency.count[b]);
    return 0;
}

/* walk: also count the g's by state, which looks at every slot. */
void gmpy_stat_read(gmpy_stat *out, int walk) {
    *out = (gmpy_stat){
        .procs = load_relaxed(&S.procs),
        .idle_procs = load_relaxed(&S.nidlep) + load_relaxed(&S.nidler),
        .reserve = load_relaxed(&S.reserve),
        .threads = load_relaxed(&S.nm),
        .spinning = load_relaxed(&S.nspinning) + load_relaxed(&S.nspinningl),
        .blocked_threads = load_relaxed(&S.nnop),
        .policy = load_relaxed(&S.policy),
        .goroutines = sched_live(),
        .created = load_relaxed(&S.created_outside),
        .globq = globq_len(&S.globq),
        .latq = globq_len(&S.latq),
        .netpoll_waiters = netpoll_waiters(),
        .external = load_relaxed(&S.external),
    };
    for (uint32_t i = 0; i < S.maxp; i++)
        out->created += load_relaxed(&load_relaxed(&S.allp[i])->stat.created);
    for (uint32_t i = 0; walk && i < g_slots(); i++) {
        g *gp = g_at(i);
        uint32_t status = g_status(gp);
        /* After the status: before, it may be the M of the slot's former g, freed with its run. */
        m *mp = load_acquire(&gp->m);
        switch (status) {
        case G_RUNNABLE:
            out->runnable++;
            if (!mp) out->fresh++;
            if (mp && load_relaxed(&mp->hold) == HOLD_TAKEN) out->stranded++;
            break;
        case G_RUNNING: out->running++; break;
        case G_WAITING: out->waiting++; break;
        default: break;
        }
    }
}

int gmpy_policy_by_name(const char *name) { return policy_by_name(name); }
const char *gmpy_policy_name(uint32_t policy) { return policy_name(policy); }
int gmpy_deadlocked(void) { return sched_deadlocked(); }

void gmpy_tune(int64_t spin_ns, int64_t steal_grace_ns) {
    if (spin_ns >= 0) store_relaxed(&S.spin_ns, spin_ns);
    if (steal_grace_ns >= 0) store_relaxed(&S.steal_grace_ns, steal_grace_ns);
}

int gmpy_trace_start(int fd, uint32_t limit) { return trace_start(fd, limit); }

int gmpy_trace_stop(gmpy_trace_sum *out) {
    trace_sum sum;
    int err = trace_stop(&sum);
    if (!err) *out = (gmpy_trace_sum){sum.events, sum.lost, sum.begin, sum.end, sum.error, sum.exact};
    return err;
}

const char *gmpy_trace_type(uint32_t i) {
#define X(name) #name,
    static const char *const types[] = {TRACE_TYPES(X)};
#undef X
    return i < TRACE_TYPE_COUNT ? types[i] : NULL;
}
