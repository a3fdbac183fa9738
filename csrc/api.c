#include "api.h"

#include <string.h>

#include "netpoll.h"
#include "scheduler.h"
#include "trace.h"

#define X(name) #name,
static const char *const names[] = {P_COUNTERS(X)};
#undef X
enum { COUNTERS = sizeof names / sizeof *names };
_Static_assert(COUNTERS <= 32, "the counter arrays of api.h are too short");
_Static_assert(HIST_BUCKETS == 488, "gmpy_hist.count in api.h has another size");

const char *gmpy_counter_name(uint32_t i) { return i < COUNTERS ? names[i] : ""; }
uint32_t gmpy_counters(void) { return COUNTERS; }
uint32_t gmpy_p_count(void) { return S.maxp; }

/* ---------------------------------------------------------------- P's */

static void counters_add(uint64_t *to, p *pp) {
#define X(name) *to++ += load_relaxed(&pp->stat.name);
    P_COUNTERS(X)
#undef X
}

int gmpy_p_stat(uint32_t i, gmpy_pstat *out) {
    if (!sched_look()) return -1;
    p *pp = i < MAX_P ? load_acquire(&S.allp[i]) : NULL;
    if (pp) {
        m *mp = load_acquire(&pp->m);
        *out = (gmpy_pstat){
            .id = pp->id,
            .status = load_relaxed(&pp->status),
            .reserved = load_relaxed(&pp->reserved),
            .m = mp ? (int64_t)mp->id : -1,
            .runq = runq_len(&pp->runq),
            .timers = (uint64_t)load_relaxed(&pp->timers.n),
            .timers_fired = load_relaxed(&pp->timers.fired),
            .timers_worst_late = load_relaxed(&pp->timers.late.max),
            .latency_max = load_relaxed(&pp->stat.latency.max),
            .idle_ns = span_read(&pp->stat.idle),
        };
        counters_add(out->counter, pp);
    }
    sched_look_end();
    return pp ? 0 : -1;
}

/* ---------------------------------------------------------------- histograms */

uint32_t gmpy_hist_buckets(void) { return HIST_BUCKETS; }
int64_t gmpy_hist_lower(uint32_t bucket) { return hist_lower(bucket); }
uint32_t gmpy_hist_bucket(int64_t ns) { return hist_bucket(ns); }

int gmpy_p_latency(uint32_t i, uint64_t *counts) {
    if (!sched_look()) return -1;
    p *pp = i < MAX_P ? load_acquire(&S.allp[i]) : NULL;
    for (uint32_t b = 0; pp && b < HIST_BUCKETS; b++) counts[b] = load_relaxed(&pp->stat.latency.count[b]);
    sched_look_end();
    return pp ? 0 : -1;
}

/* Over all P's: how late g's ran, or how late timers fired. */
void gmpy_hist_read(int timers, gmpy_hist *out) {
    memset(out, 0, sizeof *out);
    if (!sched_look()) return;
    for (uint32_t i = 0; i < S.maxp; i++) {
        p *pp = load_acquire(&S.allp[i]);
        hist *h = timers ? &pp->timers.late : &pp->stat.latency;
        for (uint32_t b = 0; b < HIST_BUCKETS; b++) out->count[b] += load_relaxed(&h->count[b]);
        out->sum += load_relaxed(&h->sum);
        int64_t max = load_relaxed(&h->max);
        if (max > out->max) out->max = max;
    }
    for (uint32_t b = 0; b < HIST_BUCKETS; b++) out->total += out->count[b];
    sched_look_end();
}

/* ---------------------------------------------------------------- M's */

static const char *const doings[] = {"idle",    "wants a P", "runtime", "running",
                                     "syscall", "blocking",  "blocked", "back without a P"};
enum {
    M_DOES_IDLE,
    M_DOES_WANTP,
    M_DOES_CORE,
    M_DOES_RUN,
    M_DOES_SYSCALL,
    M_DOES_BLOCK,
    M_DOES_TAKEN,
    M_DOES_BACK
};

const char *gmpy_m_doing(uint32_t doing) {
    return doing < sizeof doings / sizeof *doings ? doings[doing] : "?";
}

/* The g that mp runs; NULL: none. A g that ended or parked may still stand in cur. */
static g *running_g(m *mp) {
    g *gp = load_acquire(&mp->cur);
    return gp && g_status(gp) == G_RUNNING && load_acquire(&gp->m) == mp ? gp : NULL;
}

static uint32_t doing(m *mp, enum m_state state) {
    if (state == M_IDLE) return M_DOES_IDLE;
    if (state == M_WANTP) return M_DOES_WANTP;
    switch (load_acquire(&mp->hold)) {
    case HOLD_CORE: return M_DOES_CORE;
    case HOLD_SYSCALL: return M_DOES_SYSCALL;
    case HOLD_TAKEN: return S.ops.state(mp) == HOST_RUNNING ? M_DOES_BACK : M_DOES_TAKEN;
    default: return S.ops.state(mp) == HOST_DETACHED ? M_DOES_BLOCK : M_DOES_RUN;
    }
}

static void m_stat(m *mp, gmpy_mstat *out, int64_t now) {
    mutex_lock(&S.lock);
    enum m_state state = mp->state;
    bool polling = mp->polling;
    mutex_unlock(&S.lock);
    p *pp = load_acquire(&mp->p);
    g *gp = running_g(mp);
    *out = (gmpy_mstat){
        .id = mp->id,
        .doing = doing(mp, state),
        .p = pp ? (int64_t)pp->id : -1,
        .g = gp ? (int64_t)gp->id : -1,
        .bound = boundq_len(&mp->bound),
        .pinned = load_relaxed(&mp->pinned),
        .polling = polling,
        .solo = mp->solo,
        .locked = !mp->solo && load_relaxed(&mp->no_fresh),
        .undeclared = load_relaxed(&mp->nop_undeclared),
        .run_ns = gp ? load_relaxed(&gp->ran_ns) + now - load_relaxed(&mp->run_since) : 0,
    };
    if (out->doing >= M_DOES_TAKEN) out->taken_ns = now - load_relaxed(&mp->nop_since);
}

/* Fills in as many as there are, at most max; returns how many. */
uint32_t gmpy_m_stats(gmpy_mstat *out, uint32_t max) {
    uint32_t n = 0;
    if (!sched_look()) return 0;
    int64_t now = nanotime();
    for (uint32_t i = 0; i < load_relaxed(&S.nm) && i < MAX_M && n < max; i++) {
        m *mp = load_acquire(&S.allm[i]);
        if (mp) m_stat(mp, &out[n++], now);
    }
    sched_look_end();
    return n;
}

/* ---------------------------------------------------------------- g's */

/* Live g's from slot *at on, at most max; returns how many, and in *at where to go on. 0: no more. */
uint32_t gmpy_g_stats(gmpy_gstat *out, uint32_t max, uint32_t *at) {
    uint32_t n = 0, slots = g_slots();
    if (!sched_look()) return 0;
    int64_t now = nanotime();
    for (; *at < slots && n < max; ++*at) {
        g *gp = g_at(*at);
        uint32_t status = g_status(gp);
        m *mp = load_acquire(&gp->m); /* after the status, as below */
        if (status == G_IDLE || status == G_DEAD) continue;
        uint8_t reason = load_acquire(&gp->reason); /* before it is set, wait_since is an old one */
        out[n++] = (gmpy_gstat){
            .id = gp->id,
            .status = status,
            .reason = reason,
            .m = mp ? (int64_t)mp->id : -1,
            .wait_ns = status == G_WAITING && reason ? now - load_relaxed(&gp->wait_since) : 0,
        };
    }
    sched_look_end();
    return n;
}

static void count_by_slots(gmpy_stat *out) {
    for (uint32_t i = 0; i < g_slots(); i++) {
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

/* The same from the lengths of the queues: its cost grows with M's and P's, not with g's. A
 * g that is just between two queues is taken for a waiting one. */
static void count_by_queues(gmpy_stat *out) {
    uint64_t tokens = 0, started = 0;
    for (uint32_t i = 0; i < load_relaxed(&S.nm) && i < MAX_M; i++) {
        m *mp = load_acquire(&S.allm[i]);
        if (!mp) continue;
        uint32_t bound = boundq_len(&mp->bound);
        started += bound;
        tokens += load_relaxed(&mp->token_queued);
        if (load_relaxed(&mp->hold) == HOLD_TAKEN) out->stranded += bound;
        out->running += running_g(mp) != NULL;
    }
    uint64_t queued = out->globq + out->latq;
    out->fresh = queued > tokens ? queued - tokens : 0;
    for (uint32_t i = 0; i < S.maxp; i++) out->fresh += runq_len(&load_acquire(&S.allp[i])->runq);
    out->runnable = out->fresh + started;
    uint64_t busy = out->runnable + out->running;
    out->waiting = out->goroutines > busy ? out->goroutines - busy : 0;
}

/* ---------------------------------------------------------------- everything */

/* A counter must never go back, and a span may, a little. */
static int64_t not_less(_Atomic int64_t *seen, int64_t v) {
    int64_t before = load_relaxed(seen);
    while (before < v && !atomic_compare_exchange_weak(seen, &before, v)) {
    }
    return before < v ? v : before;
}

/* walk: count the g's by state from their slots, every one of them. */
void gmpy_stat_read(gmpy_stat *out, int walk) {
    *out = (gmpy_stat){.netpoll_waiters = netpoll_waiters()};
    if (!sched_look()) return;
    out->running_runtime = load_acquire(&S.running);
    out->procs = load_relaxed(&S.procs);
    out->idle_procs = load_relaxed(&S.nidlep) + load_relaxed(&S.nidler);
    out->reserve = load_relaxed(&S.reserve);
    out->threads = load_relaxed(&S.nm);
    out->spinning = load_relaxed(&S.nspinning) + load_relaxed(&S.nspinningl);
    out->blocked_threads = load_relaxed(&S.nnop);
    out->policy = load_relaxed(&S.policy);
    out->goroutines = sched_live();
    out->created = load_relaxed(&S.created_outside);
    out->globq = globq_len(&S.globq);
    out->latq = globq_len(&S.latq);
    out->external = sched_externals();
    out->poll_ns = not_less(&S.polled_seen, span_read(&S.polled));
    uint32_t holding = 0;
    for (uint32_t i = 0; i < S.maxp; i++) {
        p *pp = load_acquire(&S.allp[i]);
        counters_add(out->counter, pp);
        out->created += load_relaxed(&pp->stat.created);
        out->timers += (uint64_t)load_relaxed(&pp->timers.n);
        out->timers_fired += load_relaxed(&pp->timers.fired);
        out->idle_ns += span_read(&pp->stat.idle);
        holding += load_relaxed(&pp->status) == P_RUNNING;
    }
    out->idle_ns = not_less(&S.idle_seen, out->idle_ns);
    uint32_t busy = holding + out->blocked_threads;
    out->idle_threads = out->threads > busy ? out->threads - busy : 0;
    if (walk)
        count_by_slots(out);
    else
        count_by_queues(out);
    sched_look_end();
}

int gmpy_policy_by_name(const char *name) { return policy_by_name(name); }
const char *gmpy_policy_name(uint32_t policy) { return policy_name(policy); }

/* 0, or the standstill's number: as long as it is the same, no g has run in between. */
uint64_t gmpy_deadlocked(void) {
    if (!sched_deadlocked()) return 0;
    uint64_t runs = 0;
    for (uint32_t i = 0; i < S.maxp; i++) runs += load_relaxed(&load_relaxed(&S.allp[i])->stat.schedtick);
    return runs + 1;
}

const char *gmpy_left_told(void) { return sched_left_told(); }

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
