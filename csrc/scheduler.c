/* scheduler.c: becoming runnable, and what runs next. After Go's runtime/proc.go. Who sleeps
 * and wakes meanwhile: idle.c; start and stop: life.c. */
#include <sched.h>

#include "idle.h"
#include "netpoll.h"

sched S;
_Thread_local m *sched_self __attribute__((tls_model("initial-exec")));

enum {
    GLOBAL_TICK = 61, /* Go's: a look at the global queue first, so that it can't starve */
    TURN_PICKS = 61,  /* bound and fresh g's take turns of so many picks */
    ID_BATCH = 16,
    MAX_SOLO = 64,   /* M's for g's whose function has blocked before */
    SPREAD_LEAD = 8, /* pinned g's that an M may have more than the emptiest one */
};
static const int64_t TURN_NS = 100 * MICROSECOND;
/* An M with work of its own keeps its P that long before it serves another M's token. */
static const int64_t TOKEN_QUANTUM = 1 * MILLISECOND;
/* A g that waited that long for another M to take it starts here after all. */
static const int64_t SPREAD_PATIENCE = 1 * MILLISECOND;

/* ---------------------------------------------------------------- becoming runnable */

void sched_ready(g *gp) {
    m *mp = load_relaxed(&gp->m), *self = sched_self;
    store_relaxed(&gp->ready_at, nanotime());
    trace_runnable(TRACE_READY, gp, trace_who());
    g_move(gp, G_WAITING, G_RUNNABLE);
    if (mp == self) { /* it looks at its queue before it sleeps */
        boundq_push_own(&mp->bound, gp);
        return;
    }
    if (!self) visit();
    boundq_push(&mp->bound, gp);
    if (!load_seq(&mp->p)) need_p(mp);
    if (!self) visit_end();
}

void parker_unpark(parker *k) {
    if (k->g)
        sched_ready(k->g);
    else
        note_wake(&k->note);
}

bool sched_go(g *gp) {
    m *mp = sched_self;
    p *pp = mp ? load_relaxed(&mp->p) : NULL;
    if (!pp && !count_outside()) return false;
    bool latency = unlikely(gp->latency) && load_relaxed(&S.reserve);
    globq *to = latency ? &S.latq : &S.globq;
    g_move(gp, G_IDLE, G_RUNNABLE);
    store_relaxed(&gp->ready_at, nanotime());
    if (pp) {
        if (mp->next_id == mp->end_id) {
            mp->next_id = atomic_fetch_add(&S.next_id, ID_BATCH);
            mp->end_id = mp->next_id + ID_BATCH;
        }
        store_relaxed(&gp->id, mp->next_id++);
        count_add(&pp->stat.created, 1);
        trace_runnable(TRACE_CREATE, gp, cur_id(mp));
        if (unlikely(latency || mp->latency)) /* its P's runq isn't for either */
            globq_put_one(to, &gp->link);
        else
            runq_put(&pp->runq, gp, true, &S.globq);
    } else {
        store_relaxed(&gp->id, atomic_fetch_add(&S.next_id, ID_BATCH));
        trace_runnable(TRACE_CREATE, gp, mp ? cur_id(mp) : trace_who());
        globq_put_one(to, &gp->link);
    }
    atomic_thread_fence(memory_order_seq_cst); /* queue before nidlep: see scheduler.h, sleeping */
    if (unlikely(latency))
        sched_wakel();
    else
        sched_wakep();
    if (!pp) count_outside_end();
    return true;
}

void sched_yield_g(m *mp, g *gp, int64_t now) {
    store_relaxed(&gp->ready_at, now);
    trace_runnable(TRACE_YIELD, gp, mp->yield_to_global);
    /* yield_to_global: it was preempted, and its time goes on. */
    int64_t ran = mp->yield_to_global ? load_relaxed(&gp->ran_ns) + now - load_relaxed(&mp->run_since) : 0;
    store_relaxed(&gp->ran_ns, ran);
    g_move(gp, G_RUNNING, G_RUNNABLE);
    mp->fresh_first = boundq_len(&mp->bound) == 0;
    boundq_push_own(&mp->bound, gp);
}

void sched_end(m *mp, g *gp) {
    g_move(gp, G_RUNNING, G_DEAD);
    g_move(gp, G_DEAD, G_IDLE);
    count_add(&mp->pinned, -1);
    count_add(&load_relaxed(&mp->p)->stat.ended, 1);
    trace_event(TRACE_END, gp->id, 0);
    if (unlikely(load_relaxed(&S.draining))) check_last();
}

/* ---------------------------------------------------------------- what runs next */

/* Should a fresh g rather start elsewhere? A started g never leaves its M, so an M that
 * already has many more of them than another leaves new ones to others while a P idles. */
static bool spread(m *mp, g *gp, int64_t now) {
    if (load_relaxed(&S.nidlep) == 0 || now - load_relaxed(&gp->ready_at) > SPREAD_PATIENCE) return false;
    uint32_t mine = load_relaxed(&mp->pinned), least = UINT32_MAX;
    if (mine < SPREAD_LEAD) return false;
    uint32_t others = 0, nm = load_relaxed(&S.nm);
    for (uint32_t i = 0; i < nm && i < MAX_M; i++) {
        m *other = load_acquire(&S.allm[i]);
        if (!other || other == mp || other->no_fresh || other->latency) continue;
        uint32_t n = load_relaxed(&other->pinned);
        if (n < least) least = n;
        others++;
    }
    if (!others) least = 0; /* the M that would take it isn't made yet */
    return mine >= least + SPREAD_LEAD;
}

/* The fresh gp that mp has taken, or NULL if it is left to others. */
static g *keep(m *mp, p *pp, g *gp, int64_t now) {
    if (mp->latency || !spread(mp, gp, now)) return gp;
    count_add(&pp->stat.spread, 1);
    globq_put_one(&S.globq, &gp->link);
    atomic_thread_fence(memory_order_seq_cst);
    sched_wakep();
    return NULL;
}

/* Starts gp, whose function has blocked its M before, on an M of its own: nothing else will
 * be stranded there. False: there are enough of those; it starts like any other. */
static bool start_solo(g *gp, bool latency) {
    m *to = NULL;
    uint32_t solo = 0;
    mutex_lock(&S.lock);
    for (uint32_t i = 0; i < load_relaxed(&S.nm) && !to; i++) {
        m *mp = load_acquire(&S.allm[i]);
        if (!mp || !mp->solo || mp->latency != latency) continue;
        solo++;
        /* At 0 it runs nothing, so nobody else writes the count. */
        if (load_acquire(&mp->pinned) == 0) {
            store_relaxed(&mp->pinned, 1);
            to = mp;
        }
    }
    mutex_unlock(&S.lock);
    if (!to && (solo >= MAX_SOLO || !(to = newm(NULL, false, latency)))) return false;
    store_release(&gp->m, to);
    boundq_push(&to->bound, gp);
    if (!load_seq(&to->p)) need_p(to);
    return true;
}

static g *start(m *mp, p *pp, g *gp, int64_t now) {
    if (load_relaxed(&gp->m) == NULL) {
        store_release(&gp->m, mp);
        count_add(&mp->pinned, 1);
    }
    assert(!mp->latency || gp->latency);
    g_move(gp, G_RUNNABLE, G_RUNNING);
    hist_add(&pp->stat.latency, now - load_relaxed(&gp->ready_at));
    count_add(&pp->stat.schedtick, 1);
    trace_run(gp);
    store_relaxed(&mp->run_since, now);
    store_relaxed(&pp->slice_since, now);
    if (mp->spinning) {
        mp->spinning = false;
        /* The last spinner that finds work wakes the next one (Go's resetspinning). */
        if (atomic_fetch_sub(spinners(mp), 1) == 1) {
            if (likely(!mp->latency))
                sched_wakep();
            else if (globq_len(&S.latq))
                sched_wakel();
        }
    }
    return gp;
}

/* The latency class has had more to do than its P's could for a while: an ordinary M's P is
 * for it now. */
static bool lend(m *mp, p *pp, int64_t now) {
    if (likely(globq_len(&S.latq) == 0)) {
        pp->latq_since = 0;
        return false;
    }
    if (!pp->latq_since) pp->latq_since = now;
    if (now - pp->latq_since <= TOKEN_QUANTUM) return false;
    pp->latq_since = 0;
    stopm(mp, true);
    return true;
}

/* One look into the global queue: a fresh g, or a token served (then *again). */
static g *pick_global(m *mp, p *pp, int64_t now, bool one, bool *again) {
    if (!mp->latency && (*again = lend(mp, pp, now))) return NULL;
    globq *q = globq_of(mp);
    uint32_t n = globq_len(q);
    if (n == 0) return NULL;
    if (mp->no_fresh) { /* may serve tokens, but fresh g's are for others */
        if (mp->latency)
            sched_wakel();
        else
            sched_wakep();
        return NULL;
    }
    uint32_t share = n / load_relaxed(&S.procs) + 1;
    if (share > RUNQ_SIZE / 2) share = RUNQ_SIZE / 2;
    qlink *l = globq_get_batch(q, one || mp->latency ? 1 : share, &pp->runq);
    if (!l) return NULL;
    count_add(&pp->stat.globq_takes, 1);
    if (!l->is_token) return keep(mp, pp, containerof(l, g, link), now);
    if (boundq_len(&mp->bound) && now - mp->p_since < TOKEN_QUANTUM) {
        globq_put_one(q, l);
        return NULL;
    }
    serve_token(mp, containerof(l, m, token));
    *again = true;
    return NULL;
}

/* In their turn: the P's own, else one from the global queue before the bound ones'. By the look
 * that every 61st pick begins with, as Go's, one of those started in 61 slices of the others, or
 * calls of gosched(). With no bound g's there are no turns, and the policy has the order. */
static g *pick_fresh(m *mp, p *pp, int64_t now, bool *again) {
    if (mp->no_fresh || mp->latency) return NULL;
    g *gp = runq_get(&pp->runq);
    if (gp) return keep(mp, pp, gp, now);
    if (boundq_len(&mp->bound) == 0 || policy_skips_global(pp, now)) return NULL;
    return pick_global(mp, pp, now, false, again);
}

/* Bound and fresh g's in turns: neither kind can starve the other. A turn is bounded in
 * picks and in time, and while fresh g's end without parking they run without a switch. */
static g *pick_in_turns(m *mp, p *pp, int64_t now, bool *again) {
    if (mp->fresh_first || mp->streak >= TURN_PICKS || now - mp->turn_since > TURN_NS) {
        mp->turn = mp->fresh_first || mp->turn == TURN_BOUND ? TURN_FRESH : TURN_BOUND;
        mp->fresh_first = false;
        mp->streak = 0;
        mp->turn_since = now;
    }
    for (int tries = 0; tries < 2; tries++) {
        g *gp = mp->turn == TURN_BOUND ? boundq_pop(&mp->bound) : pick_fresh(mp, pp, now, again);
        if (*again) return NULL;
        if (gp) {
            mp->streak++;
            return gp;
        }
        mp->turn = mp->turn == TURN_BOUND ? TURN_FRESH : TURN_BOUND;
        mp->streak = 0;
        mp->turn_since = now;
    }
    return NULL;
}

static bool poll_now(int64_t now) {
    if (netpoll_waiters() == 0) return false;
    store_relaxed(&S.last_look, now);
    if (load_relaxed(&S.poller)) return false;
    store_relaxed(&S.last_poll, now);
    int n = netpoll(0);
    if (n) count_add(&load_relaxed(&sched_self->p)->stat.netpoll_wakes, (uint64_t)n);
    return n > 0;
}

/* Looks for work a little longer before the sleep: a wake-up of a sleeping thread costs
 * some 5 to 50 us, so one that is about to get work had better stay awake (design: steal
 * late, spin short). Only for what comes through memory, and only as long as it pays: with
 * I/O the next event is far off, and the peer may need this very CPU (an echo server beside
 * its load on 2 cores lost a third of its throughput to spinning). */
static g *spin(m *mp, p *pp) {
    int64_t now = nanotime(), until = now, grace_end = 0;
    if (S.ops.spin && mp->spin_luck > 0)
        until += load_relaxed(&S.spin_ns);
    else if (S.ops.spin && ++mp->spin_dry % 32 == 0)
        /* Now and then for as long as a partner needs that sleeps itself: two M's that talk and
         * have both given up spinning would never find back to it. */
        until += 4 * load_relaxed(&S.spin_ns);
    uint32_t busy = load_relaxed(&S.procs) - load_relaxed(&S.nidlep);
    /* An M that starts no fresh g's may spin for its own, but doesn't count: a submitter
     * that sees a spinner relies on it. */
    if (!mp->spinning && !mp->no_fresh) {
        /* Go: half of the busy P's. But two M's whose g's talk to each other run dry in turns
         * and overlap: with only one allowed to spin, the other slept (38 us a round trip). */
        if (load_relaxed(spinners(mp)) >= (busy > 4 ? busy / 2 : 2)) return NULL;
        mp->spinning = true;
        atomic_fetch_add(spinners(mp), 1);
    }
    for (uint32_t round = 0;; round++) {
        bool too_young = false, last = now >= until;
        g *gp = mp->no_fresh || mp->latency ? NULL : policy_find(pp, last, &too_young);
        if (gp || boundq_len(&mp->bound) || globq_len(globq_of(mp))) {
            if (round && mp->spin_luck < SPIN_LUCK) mp->spin_luck += 2;
            return gp;
        }
        if (sched_next_timer() <= now) {
            sched_run_timers(now);
            if (boundq_len(&mp->bound)) return NULL;
        }
        if (last) {
            if (round && !too_young && mp->spin_luck > 0) mp->spin_luck--;
            /* A g too young to be stolen is worth waiting for, once. */
            if (!too_young || grace_end) return NULL;
            grace_end = until = now + load_relaxed(&S.steal_grace_ns);
        }
        for (int i = 0; i < 20; i++) cpu_relax();
        now = nanotime();
    }
}

bool sched_may_spin(void) {
    m *mp = sched_self;
    p *pp = mp ? load_relaxed(&mp->p) : NULL;
    if (!pp || !S.ops.spin) return false;
    uint32_t not_running = load_relaxed(&S.nidlep) + load_relaxed(&S.nspinning);
    return load_relaxed(&S.procs) > not_running + 1 && !boundq_len(&mp->bound) && runq_empty(&pp->runq) &&
           !globq_len(&S.globq);
}

/* One round of looking, in Go's order. NULL: something changed (or mp slept): look again. */
static g *find_runnable(m *mp, p *pp, int64_t *now) {
    bool again = false;
    g *gp;
    if (unlikely(timers_due(&pp->timers, *now))) timers_run(&pp->timers, *now);
    if (unlikely(load_relaxed(&pp->stat.schedtick) % GLOBAL_TICK == 0 || mp->yield_to_global ||
                 (mp->latency && (mp->fresh_first || *now - mp->turn_since > TURN_NS)))) {
        /* After a preemption a whole batch: one for each slice of a hog would be as few as 100 a
         * second. */
        bool one = !mp->yield_to_global;
        mp->yield_to_global = false;
        if (mp->latency) mp->turn_since = *now; /* its fresh g's and its bound ones in turns */
        if (mp->latency || !policy_skips_global(pp, *now)) {
            gp = pick_global(mp, pp, *now, one, &again);
            if (gp || again) return gp;
        }
        if (*now - load_relaxed(&S.last_poll) > 200 * MICROSECOND) poll_now(*now);
    }
    gp = pick_in_turns(mp, pp, *now, &again);
    if (gp || again) return gp;
    if (unlikely(policy_robs_first()) && !mp->no_fresh && !mp->latency) {
        bool too_young = false;
        gp = policy_find(pp, false, &too_young);
        if (gp) return gp;
    }
    if (mp->latency || !policy_skips_global(pp, *now)) {
        gp = pick_global(mp, pp, *now, false, &again);
        if (gp || again) return gp;
    }
    if (poll_now(*now)) return NULL;
    if (sched_next_timer() <= *now) {
        sched_run_timers(*now);
        return NULL;
    }
    if (unlikely(boundq_cut(&mp->bound))) {
        /* For long only where the pusher's thread was preempted: it may need this very CPU. */
        sched_yield();
        *now = nanotime();
        return NULL;
    }
    trace_event(TRACE_SPIN, 0, 0);
    gp = spin(mp, pp);
    trace_event(TRACE_SPIN_END, 0, gp != NULL);
    *now = nanotime();
    if (!gp && !boundq_len(&mp->bound)) stopm(mp, mp->no_fresh || mp->latency != load_relaxed(&pp->reserved));
    return gp;
}

/* Is pp not mp's to keep any more? Because GOMAXPROCS took it away or it became reserved; or
 * for what only others may start or serve, and that mustn't wait until all of mp's g's sleep. */
static bool leaves(m *mp, p *pp, int64_t now) {
    if (load_relaxed(&pp->retire)) return true;
    bool reserved = load_relaxed(&pp->reserved);
    if (reserved) {
        if (!mp->latency) return true;
        if (!runq_empty(&pp->runq)) { /* from when it was an open one */
            give_away(pp);
            atomic_thread_fence(memory_order_seq_cst);
            sched_wakep();
        }
    }
    if (now - mp->p_since <= TOKEN_QUANTUM) return false;
    if (!reserved && (mp->no_fresh || mp->latency) && (globq_len(&S.globq) || !runq_empty(&pp->runq)))
        return true;
    return mp->no_fresh && globq_len(&S.latq);
}

g *sched_next_at(m *mp, int64_t now) {
    for (;; now = 0) {
        p *pp = load_relaxed(&mp->p);
        if (unlikely(!pp)) return NULL; /* stopping */
        if (!now) now = nanotime();
        if (unlikely(load_relaxed(&pp->retire) || load_relaxed(&pp->reserved) || mp->no_fresh ||
                     mp->latency) &&
            leaves(mp, pp, now)) {
            stopm(mp, true);
            continue;
        }
        g *gp = find_runnable(mp, pp, &now);
        if (!gp || (unlikely(gp->solo) && !load_relaxed(&gp->m) && !mp->solo && start_solo(gp, mp->latency)))
            continue;
        return start(mp, pp, gp, now);
    }
}
