/* policy.c: how a P without work looks for it (design.md section 8).
 *
 * go            random victims, half of the victim's queue: what Go does.
 * global-first  the same victims; the global queue is looked at right before them anyway.
 * neighbour     at most the two adjacent P's, and those before the global queue, which counts
 *               as degraded once it has been empty for 10 ms, and is skipped until something
 *               is put there.
 * affine        the victim stolen from last, first.
 *
 * The last three are how the article 'Go 1.22 ... goroutine starvation' describes Go. */
#include <string.h>

#include "scheduler.h"

static const int64_t DEGRADE_AFTER = 10 * MILLISECOND;

static const char *const names[POLICIES] = {"go", "global-first", "neighbour", "affine"};

const char *policy_name(uint32_t policy) { return policy < POLICIES ? names[policy] : "?"; }

int policy_by_name(const char *name) {
    for (int i = 0; i < POLICIES; i++)
        if (strcmp(name, names[i]) == 0) return i;
    return -1;
}

bool policy_skips_global(p *pp, int64_t now) {
    if (load_relaxed(&S.policy) != POLICY_NEIGHBOUR) return false;
    if (globq_len(&S.globq)) {
        pp->globq_empty_at = 0;
        return false;
    }
    if (!pp->globq_empty_at) pp->globq_empty_at = now;
    return now - pp->globq_empty_at > DEGRADE_AFTER;
}

bool policy_robs_first(void) { return load_relaxed(&S.policy) == POLICY_NEIGHBOUR; }

static g *rob(p *pp, uint32_t victim, bool *too_young) {
    p *from = load_acquire(&S.allp[victim]);
    if (from == pp || runq_empty(&from->runq)) return NULL;
    /* A victim without an M can't use its g's: no grace for them. */
    int64_t grace = load_relaxed(&from->status) == P_RUNNING ? load_relaxed(&S.steal_grace_ns) : 0;
    uint32_t n;
    g *gp = runq_steal(&pp->runq, &from->runq, nanotime(), grace, too_young, &n);
    if (!gp) return NULL;
    count_add(&pp->stat.steals, 1);
    count_add(&pp->stat.stolen, n);
    trace_event(TRACE_STEAL, gp->id, (uint64_t)victim << 32 | n);
    atomic_fetch_add_explicit(&from->stat.robbed, 1, memory_order_relaxed);
    pp->last_victim = victim;
    return gp;
}

g *policy_find(p *pp, bool last_round, bool *too_young) {
    uint32_t n = S.maxp, policy = load_relaxed(&S.policy);
    g *gp = NULL;
    if (n < 2) return NULL;
    if (policy == POLICY_NEIGHBOUR) {
        uint32_t procs = load_relaxed(&S.procs);
        gp = rob(pp, (pp->id + 1) % procs, too_young);
        if (!gp) gp = rob(pp, (pp->id + procs - 1) % procs, too_young);
    } else {
        if (policy == POLICY_AFFINE) gp = rob(pp, pp->last_victim % n, too_young);
        uint32_t first = rand_next(&pp->rand) % n;
        for (uint32_t i = 0; i < n && !gp; i++) gp = rob(pp, (first + i) % n, too_young);
    }
    if (!gp && last_round) count_add(&pp->stat.steal_misses, 1);
    return gp;
}
