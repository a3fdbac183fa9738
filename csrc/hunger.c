/* hunger.c: who waits for a turn, for how long, and who has it meanwhile. For gmpy_rt/guard.py. */
#include <string.h>

#include "api.h"
#include "scheduler.h"

enum { HOGS = sizeof((gmpy_hunger){0}.hog) / sizeof(gmpy_hog) };
_Static_assert(sizeof((gmpy_hunger){0}.seen) == HIST_BUCKETS * sizeof(uint64_t), "gmpy_hunger.seen");

/* Latencies since the last look, of all P's: counts by bucket. */
static void new_latencies(gmpy_hunger *h, uint64_t *counts) {
    for (uint32_t b = 0; b < HIST_BUCKETS; b++) {
        uint64_t n = 0;
        for (uint32_t i = 0; i < S.maxp; i++)
            n += load_relaxed(&load_relaxed(&S.allp[i])->stat.latency.count[b]);
        counts[b] = n >= h->seen[b] ? n - h->seen[b] : n; /* less: another run has begun */
        h->seen[b] = n;
    }
}

static void add_hog(gmpy_hunger *h, gmpy_hog hog) {
    uint32_t at = h->hogs < HOGS ? h->hogs++ : HOGS - 1;
    if (at == HOGS - 1 && h->hog[at].ran_ns > hog.ran_ns) return;
    for (; at && h->hog[at - 1].ran_ns < hog.ran_ns; at--) h->hog[at] = h->hog[at - 1];
    h->hog[at] = hog;
}

static void find_hogs(gmpy_hunger *h, int64_t now) {
    uint64_t requests = 0;
    h->hogs = 0;
    memset(h->hog, 0, sizeof h->hog);
    for (uint32_t i = 0; i < S.maxp; i++) {
        p *pp = load_acquire(&S.allp[i]);
        m *mp = load_acquire(&pp->m);
        requests += load_relaxed(&pp->stat.preempt_requests);
        if (load_acquire(&pp->status) != P_RUNNING || !mp || load_acquire(&mp->hold) != HOLD_HOST) continue;
        g *gp = load_acquire(&mp->cur);
        int64_t ran = now - load_relaxed(&pp->slice_since);
        if (gp && ran >= h->starving_ns) add_hog(h, (gmpy_hog){.g = gp->id, .m = mp->id, .ran_ns = ran});
    }
    h->preempt_requests = requests >= h->seen_requests ? requests - h->seen_requests : requests;
    h->seen_requests = requests;
}

/* Without a runtime nothing changes in *h. */
void gmpy_hunger_look(gmpy_hunger *h) {
    uint64_t counts[HIST_BUCKETS];
    if (!sched_look()) return;
    int64_t now = nanotime(), sum = 0;
    new_latencies(h, counts);
    h->runs = 0;
    for (uint32_t b = 0; b < HIST_BUCKETS; b++) h->runs += counts[b];
    h->goroutines = sched_live();
    h->runnable = h->starved = h->oldest_g = 0;
    h->oldest_ns = 0;
    for (uint32_t i = 0; i < g_slots(); i++) {
        g *gp = g_at(i);
        if (g_status(gp) != G_RUNNABLE) continue;
        int64_t age = now - load_relaxed(&gp->ready_at);
        if (age < 0) age = 0;
        h->runnable++;
        counts[hist_bucket(age)]++; /* has waited so long already */
        if (age < h->starving_ns) continue;
        h->starved++;
        if (age <= h->oldest_ns) continue;
        h->oldest_ns = age;
        h->oldest_g = gp->id;
    }
    uint64_t n = h->runs + h->runnable, rank = n - n / 100, below = 0;
    h->wait_p99_ns = 0;
    for (uint32_t b = 0; b < HIST_BUCKETS; b++) {
        if (!counts[b]) continue;
        sum += (int64_t)counts[b] * (hist_lower(b) / 2 + hist_lower(b + 1) / 2);
        if (below < rank) h->wait_p99_ns = hist_lower(b + 1);
        below += counts[b];
    }
    h->wait_mean_ns = n ? sum / (int64_t)n : 0;
    find_hogs(h, now);
    sched_look_end();
}

/* How long a g may run while others wait for its M or P. Returns what it was; 0 only asks. */
int64_t gmpy_slice(int64_t ns) {
    int64_t old = load_relaxed(&S.slice_ns);
    if (ns > 0) {
        store_relaxed(&S.slice_ns, ns);
        if (load_relaxed(&S.running)) sysmon_wake();
    }
    return old;
}

/* Whoever runs while others wait is asked to yield now. */
void gmpy_preempt_now(void) {
    store_relaxed(&S.preempt_now, true);
    sysmon_wake();
}
