/* scheduler.c: what runs next, and who sleeps and wakes. After Go's runtime/proc.go. */
#include "scheduler.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "netpoll.h"

sched S;
_Thread_local m *sched_self __attribute__((tls_model("initial-exec")));

enum {
    GLOBAL_TICK = 61,    /* Go's: a look at the global queue first, so that it can't starve */
    TURN_PICKS = 61,     /* bound and fresh g's take turns of so many picks */
    ID_BATCH = 16,
    MAX_SOLO = 64,       /* M's for g's whose function has blocked before */
    SPIN_LUCK = 16,      /* spins in vain until an M stops spinning, mostly */
    SPREAD_LEAD = 8,     /* pinned g's that an M may have more than the emptiest one */
};
static const int64_t TURN_NS = 100 * MICROSECOND;
/* An M with work of its own keeps its P that long before it serves another M's token. */
static const int64_t TOKEN_QUANTUM = 1 * MILLISECOND;
/* A function that blocked its M undeclared for so long starts on M's of its own from then on. */
static const int64_t SOLO_AFTER = 20 * MILLISECOND;
/* A g that waited that long for another M to take it starts here after all. */
static const int64_t SPREAD_PATIENCE = 1 * MILLISECOND;

/* ---------------------------------------------------------------- idle lists (sched.lock) */

/* RUNNING belongs to an M, or is on its way to one; IDLE is in the list of idle ones. */
static bool p_legal(uint32_t from, uint32_t to) {
    switch (from) {
    case P_RETIRED: return to == P_IDLE;
    case P_IDLE: return to == P_RUNNING;
    case P_RUNNING: return to == P_IDLE || to == P_RETIRED;
    }
    return false;
}

/* The only way a status changes. */
static void p_move(p *pp, uint32_t from, uint32_t to) {
    assert(p_legal(from, to) && load_relaxed(&pp->status) == from);
    (void)p_legal, (void)from;
    store_release(&pp->status, to);
}

static void pidle_list(p *pp, uint32_t from) {
    p_move(pp, from, P_IDLE);
    store_release(&pp->m, NULL);
    pp->next_idle = S.idlep;
    S.idlep = pp;
    atomic_fetch_add(&S.nidlep, 1);
}

/* The caller gives up pp, which it owns. A P that is to retire leaves its g's to the others:
 * not every policy robs a retired one, and a busy M robs nobody. */
static void pidle_put(p *pp) {
    if (!load_relaxed(&pp->retire)) {
        pidle_list(pp, P_RUNNING);
        return;
    }
    for (g *left; (left = runq_get(&pp->runq));) globq_put_one(&S.globq, &left->link);
    store_release(&pp->m, NULL);
    p_move(pp, P_RUNNING, P_RETIRED);
}

/* Takes an idle P, `want` if that one is idle (its caches are warm); it is RUNNING then. */
static p *pidle_get(p *want) {
    p **at = &S.idlep;
    if (want)
        while (*at && *at != want) at = &(*at)->next_idle;
    if (!*at) at = &S.idlep;
    p *pp = *at;
    if (!pp) return NULL;
    *at = pp->next_idle;
    atomic_fetch_sub(&S.nidlep, 1);
    p_move(pp, P_IDLE, P_RUNNING);
    return pp;
}

static void midle_put(m *mp) {
    mp->next_idle = S.idlem;
    S.idlem = mp;
    mp->idle_listed = true;
}

static void midle_remove(m *mp) {
    if (!mp->idle_listed) return;
    for (m **at = &S.idlem; *at; at = &(*at)->next_idle)
        if (*at == mp) {
            *at = mp->next_idle;
            break;
        }
    mp->idle_listed = false;
}

/* An M that may run anybody's fresh g's; the one in netpoll only if there's no other. */
static m *midle_get(void) {
    m *mp = S.idlem;
    if (mp) {
        midle_remove(mp);
        return mp;
    }
    mp = load_relaxed(&S.poller);
    return mp && mp->state == M_IDLE && !mp->no_fresh ? mp : NULL;
}

/* Gives pp to a sleeping mp. Returns how to wake it: do that after unlocking. */
static bool give(m *mp, p *pp) {
    assert(mp->state == M_IDLE || mp->state == M_WANTP);
    assert(load_relaxed(&pp->status) == P_RUNNING && !mp->nextp);
    midle_remove(mp);
    mp->state = M_RUN;
    mp->nextp = pp;
    return mp->polling;
}

static void wake_m(m *mp, bool polling) {
    if (polling)
        netpoll_break();
    else
        note_wake(&mp->note);
}

static void queue_token(m *mp) {
    mp->state = M_WANTP;
    midle_remove(mp);
    if (mp->token_queued) return;
    mp->token_queued = true;
    globq_put_one(&S.globq, &mp->token);
}

static void take_p(m *mp, p *pp) {
    assert(load_relaxed(&pp->status) == P_RUNNING);
    store_release(&pp->m, mp);
    store_seq(&mp->p, pp);
    mp->lastp = pp;
    mp->p_since = nanotime();
    if (load_seq(&S.sysmon_asleep)) sysmon_wake();
}

/* ---------------------------------------------------------------- new M's */

/* sched_stop waits until no visitor is left: for threads that make an M which it has to
 * join, and for plain threads that are still inside a wake-up when the g that they woke, its
 * M and everybody else have already ended. */
static void visit(void) { atomic_fetch_add(&S.visitors, 1); }
static void visit_end(void) { atomic_fetch_sub(&S.visitors, 1); }

static void sleep_until_given(m *mp);

static void *m_start(void *arg) {
    m *mp = arg;
    sched_self = mp;
    g_cache_begin();
    if (mp->solo) /* whoever gives it its g sees to the P */
        sleep_until_given(mp);
    else {
        p *pp = mp->nextp;
        mp->nextp = NULL;
        take_p(mp, pp);
    }
    S.ops.m_main(mp);
    g_cache_end();
    return NULL;
}

/* Makes an M that starts with pp, or a solo one (pp == NULL). NULL: the system gives no more
 * threads, or everything stops. allm names an M only once its thread exists: who finds it there may use it. */
static m *newm(p *pp, bool spinning) {
    m *mp = aligned_alloc(CACHE_LINE, sizeof(m));
    if (!mp) return NULL;
    memset(mp, 0, sizeof *mp);
    mp->solo = mp->no_fresh = !pp;
    mp->state = pp ? M_RUN : M_IDLE;
    store_relaxed(&mp->pinned, !pp); /* the g that it is made for */
    mp->spin_luck = SPIN_LUCK;
    mp->token.is_token = true;
    mp->spinning = spinning;
    mp->nextp = pp;
    store_relaxed(&mp->hold, HOLD_CORE);
    boundq_init(&mp->bound);
    mutex_lock(&S.lock);
    uint32_t id = load_relaxed(&S.stopping) ? MAX_M : load_relaxed(&S.nm);
    if (id < MAX_M) {
        store_seq(&S.nm, id + 1);
        visit();
    }
    mutex_unlock(&S.lock);
    mp->id = id;
    bool made = id < MAX_M && pthread_create(&mp->thread, NULL, m_start, mp) == 0;
    if (made)
        store_release(&S.allm[id], mp);
    else {
        free(mp);
        mp = NULL;
        mutex_lock(&S.lock); /* only the last number can be used again */
        if (id < MAX_M && load_relaxed(&S.nm) == id + 1) store_seq(&S.nm, id);
        mutex_unlock(&S.lock);
    }
    if (id < MAX_M) visit_end();
    return mp;
}

/* Finds an M for pp (status RUNNING, owned by the caller), or idles pp. */
static void startm(p *pp, bool spinning) {
    mutex_lock(&S.lock);
    m *mp = midle_get();
    if (mp) {
        mp->spinning = spinning;
        bool polling = give(mp, pp);
        mutex_unlock(&S.lock);
        wake_m(mp, polling);
        return;
    }
    mutex_unlock(&S.lock);
    if (newm(pp, spinning)) return;
    if (spinning) atomic_fetch_sub(&S.nspinning, 1);
    mutex_lock(&S.lock);
    pidle_put(pp);
    mutex_unlock(&S.lock);
}

void sched_wakep(void) {
    uint32_t none = 0;
    if (load_seq(&S.nidlep) == 0 || load_seq(&S.nspinning) != 0) return;
    if (!atomic_compare_exchange_strong(&S.nspinning, &none, 1)) return;
    mutex_lock(&S.lock);
    p *pp = pidle_get(NULL);
    mutex_unlock(&S.lock);
    if (pp)
        startm(pp, true);
    else
        atomic_fetch_sub(&S.nspinning, 1);
}

/* Is there anything that any M could run? */
static bool fresh_anywhere(void) {
    if (globq_len(&S.globq)) return true;
    for (uint32_t i = 0; i < S.maxp; i++)
        if (!runq_empty(&load_relaxed(&S.allp[i])->runq)) return true;
    return false;
}

void sched_handoffp(p *pp) {
    if (!load_relaxed(&pp->retire) &&
        (!runq_empty(&pp->runq) || globq_len(&S.globq) || timers_due(&pp->timers, nanotime()))) {
        startm(pp, false);
        return;
    }
    mutex_lock(&S.lock);
    pidle_put(pp);
    mutex_unlock(&S.lock);
    /* Work that came before the idling found nobody to wake. Not only since the look, and not
     * only this P's: its M, which blocks or is locked, hasn't looked round before it stopped. */
    atomic_thread_fence(memory_order_seq_cst);
    if (fresh_anywhere()) sched_wakep();
}

/* ---------------------------------------------------------------- becoming runnable */

static void check_last(void) {
    if (sched_live() == 0) S.ops.idle();
}

/* mp has a runnable g and, a moment ago, no P. */
static void need_p(m *mp) {
    mutex_lock(&S.lock);
    if (mp->state != M_IDLE) {
        mutex_unlock(&S.lock);
        return;
    }
    p *pp = pidle_get(mp->lastp);
    if (!pp) {
        queue_token(mp);
        mutex_unlock(&S.lock);
        return;
    }
    bool polling = give(mp, pp);
    mutex_unlock(&S.lock);
    wake_m(mp, polling);
}

void sched_ready(g *gp) {
    m *mp = load_relaxed(&gp->m), *self = sched_self;
    store_relaxed(&gp->ready_at, nanotime());
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

void sched_go(g *gp) {
    m *mp = sched_self;
    p *pp = mp ? load_relaxed(&mp->p) : NULL;
    g_move(gp, G_IDLE, G_RUNNABLE);
    store_relaxed(&gp->ready_at, nanotime());
    if (pp) {
        if (mp->next_id == mp->end_id) {
            mp->next_id = atomic_fetch_add(&S.next_id, ID_BATCH);
            mp->end_id = mp->next_id + ID_BATCH;
        }
        gp->id = mp->next_id++;
        count_add(&pp->stat.created, 1);
        runq_put(&pp->runq, gp, true, &S.globq);
    } else {
        gp->id = atomic_fetch_add(&S.next_id, ID_BATCH);
        visit();
        atomic_fetch_add(&S.created_outside, 1);
        globq_put_one(&S.globq, &gp->link);
    }
    atomic_thread_fence(memory_order_seq_cst); /* queue before nidlep: see scheduler.h, sleeping */
    sched_wakep();
    if (!pp) visit_end();
}

void sched_yield_g(m *mp, g *gp, int64_t now) {
    store_relaxed(&gp->ready_at, now);
    g_move(gp, G_RUNNING, G_RUNNABLE);
    boundq_push_own(&mp->bound, gp);
}

void sched_end(m *mp, g *gp) {
    g_move(gp, G_RUNNING, G_DEAD);
    g_move(gp, G_DEAD, G_IDLE);
    count_add(&mp->pinned, -1);
    count_add(&load_relaxed(&mp->p)->stat.ended, 1);
    if (unlikely(load_relaxed(&S.draining))) check_last();
}

/* ---------------------------------------------------------------- timers over all P's */

int64_t sched_next_timer(void) {
    int64_t next = INT64_MAX;
    for (uint32_t i = 0; i < S.maxp; i++) {
        int64_t n = load_seq(&load_relaxed(&S.allp[i])->timers.next);
        if (n < next) next = n;
    }
    return next;
}

void sched_timer_added(int64_t when) {
    if (load_seq(&S.poller) && when < load_seq(&S.poll_until)) netpoll_break();
}

void sched_run_timers(int64_t now) {
    for (uint32_t i = 0; i < S.maxp; i++) timers_run(&load_relaxed(&S.allp[i])->timers, now);
}

void sched_kick_poller(void) {
    mutex_lock(&S.lock);
    m *mp = load_relaxed(&S.poller) ? NULL : S.idlem;
    mutex_unlock(&S.lock);
    if (mp) note_wake(&mp->note);
}

/* ---------------------------------------------------------------- sleeping */

/* The M (state M_IDLE or M_WANTP, P released) sleeps until it was given a P. */
static void sleep_until_given(m *mp) {
    for (;;) {
        mutex_lock(&S.lock);
        p *pp = mp->nextp;
        if (!pp && load_relaxed(&S.stopping)) {
            mutex_unlock(&S.lock);
            return;
        }
        bool poll = !pp && !load_relaxed(&S.poller);
        if (pp) {
            mp->nextp = NULL;
            mp->polling = false;
        } else if (poll) {
            midle_remove(mp);
            mp->polling = true;
            store_seq(&S.poll_until, INT64_MAX);
            store_seq(&S.poller, mp);
        }
        mutex_unlock(&S.lock);
        if (pp) {
            take_p(mp, pp);
            return;
        }
        if (!poll) {
            note_sleep(&mp->note, 0);
            continue;
        }
        /* A timer added from here on is earlier than poll_until and breaks the poll;
         * one added before is seen by the scan. */
        int64_t until = sched_next_timer();
        store_seq(&S.poll_until, until);
        netpoll(until);
        int64_t now = nanotime();
        store_relaxed(&S.last_poll, now);
        sched_run_timers(now);
        mutex_lock(&S.lock);
        store_seq(&S.poller, NULL);
        mp->polling = false;
        if (!mp->nextp) {
            bool work = boundq_len(&mp->bound) || (!mp->no_fresh && globq_len(&S.globq));
            pp = work ? pidle_get(mp->lastp) : NULL;
            if (pp)
                give(mp, pp);
            else if (boundq_len(&mp->bound))
                queue_token(mp);
            else if (!mp->no_fresh && mp->state == M_IDLE)
                midle_put(mp);
        }
        mutex_unlock(&S.lock);
    }
}

static void check_deadlock(void) {
    if (sched_deadlocked()) S.ops.idle();
}

/* Is there anything that an idle M could run? */
static bool work_anywhere(m *mp) {
    return boundq_len(&mp->bound) || (!mp->no_fresh && fresh_anywhere());
}

/* Before mp is listed as idle: from then on its flag is whoever's who starts it. The caller
 * still counts it in nspinning if this returns true. */
static bool drop_spinning(m *mp) {
    bool was = mp->spinning;
    mp->spinning = false;
    return was;
}

/* Releases mp's P and sleeps until there is something to do; mp then has a P again,
 * or the scheduler is stopping (p == NULL). */
static void stopm(m *mp) {
    p *pp = load_relaxed(&mp->p);
    mutex_lock(&S.lock);
    mp->state = M_IDLE;
    store_seq(&mp->p, NULL);
    bool spinning = drop_spinning(mp);
    if (!mp->no_fresh) {
        midle_put(mp);
        pidle_put(pp);
    }
    mutex_unlock(&S.lock);
    if (mp->no_fresh) sched_handoffp(pp);
    if (spinning) atomic_fetch_sub(&S.nspinning, 1);
    atomic_thread_fence(memory_order_seq_cst);
    /* Whoever submitted before the drop is seen here; whoever submits after it wakes us. */
    if (work_anywhere(mp)) {
        mutex_lock(&S.lock);
        if (mp->state == M_IDLE) {
            p *back = pidle_get(pp);
            if (back)
                give(mp, back);
            else if (boundq_len(&mp->bound))
                queue_token(mp);
        }
        mutex_unlock(&S.lock);
    } else
        check_deadlock();
    /* sched_end may have looked at `draining` just before it was set, and the host at the
     * number of g's just before that one was counted out: here, behind the fence, one of the
     * two is seen. */
    if (unlikely(load_seq(&S.draining))) check_last();
    S.ops.detach(mp);
    sleep_until_given(mp);
    S.ops.attach(mp);
}

/* Hands mp's P to `to`, whose token was dequeued, and sleeps (Go's startlockedm). */
static void serve_token(m *mp, m *to) {
    p *pp = load_relaxed(&mp->p);
    mutex_lock(&S.lock);
    to->token_queued = false;
    if (to->state != M_WANTP) { /* it found a P by itself meanwhile */
        mutex_unlock(&S.lock);
        return;
    }
    p *idle = pidle_get(to->lastp);
    if (idle) {
        bool polling = give(to, idle);
        mutex_unlock(&S.lock);
        wake_m(to, polling);
        return;
    }
    count_add(&pp->stat.tokens, 1);
    mp->state = M_IDLE;
    store_seq(&mp->p, NULL);
    bool spinning = drop_spinning(mp);
    atomic_thread_fence(memory_order_seq_cst);
    if (boundq_len(&mp->bound))
        queue_token(mp);
    else if (!mp->no_fresh)
        midle_put(mp);
    bool polling = give(to, pp);
    mutex_unlock(&S.lock);
    if (spinning) atomic_fetch_sub(&S.nspinning, 1);
    wake_m(to, polling);
    S.ops.detach(mp);
    sleep_until_given(mp);
    S.ops.attach(mp);
}

bool sched_blocked_long(m *mp) {
    return load_acquire(&mp->hold) == HOLD_TAKEN && load_relaxed(&mp->nop_undeclared) &&
           nanotime() - load_relaxed(&mp->nop_since) > SOLO_AFTER;
}

p *sched_reacquire(m *mp) {
    g *gp = load_relaxed(&mp->cur);
    if (gp && load_relaxed(&mp->nop_undeclared) && nanotime() - load_relaxed(&mp->nop_since) > SOLO_AFTER) gp->blocked = true;
    mutex_lock(&S.lock);
    atomic_fetch_sub(&S.nnop, 1);
    mp->state = M_IDLE;
    p *pp = pidle_get(mp->lastp);
    if (pp)
        give(mp, pp);
    else
        queue_token(mp);
    mutex_unlock(&S.lock);
    S.ops.detach(mp);
    while (!load_relaxed(&mp->p) && !load_relaxed(&S.stopping)) sleep_until_given(mp);
    S.ops.attach(mp);
    return load_relaxed(&mp->p);
}

p *sched_retake(m *mp, p *pp, uint32_t from) {
    mutex_lock(&S.lock);
    if (load_seq(&mp->p) != pp) {
        mutex_unlock(&S.lock);
        return NULL;
    }
    /* Before the exchange: mp may read them as soon as it sees HOLD_TAKEN, and only then. */
    store_relaxed(&mp->nop_undeclared, from == HOLD_HOST);
    store_relaxed(&mp->nop_since, nanotime());
    if (atomic_compare_exchange_strong_explicit(&mp->hold, &from, HOLD_TAKEN, memory_order_acq_rel,
                                                memory_order_relaxed)) {
        pp = load_seq(&mp->p); /* stands still now: a core that is entered waits for the lock */
        assert(pp && mp->state == M_RUN);
        mp->state = M_NOP;
        store_seq(&mp->p, NULL);
        atomic_fetch_add(&S.nnop, 1);
    } else
        pp = NULL;
    mutex_unlock(&S.lock);
    return pp;
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
        if (!other || other == mp || other->no_fresh) continue;
        uint32_t n = load_relaxed(&other->pinned);
        if (n < least) least = n;
        others++;
    }
    if (!others) least = 0; /* the M that would take it isn't made yet */
    return mine >= least + SPREAD_LEAD;
}

static void leave_to_others(p *pp, g *gp) {
    count_add(&pp->stat.spread, 1);
    globq_put_one(&S.globq, &gp->link);
    atomic_thread_fence(memory_order_seq_cst);
    sched_wakep();
}

/* Starts gp, whose function has blocked its M before, on an M of its own: nothing else will
 * be stranded there. False: there are enough of those; it starts like any other. */
static bool start_solo(g *gp) {
    m *to = NULL;
    uint32_t solo = 0;
    mutex_lock(&S.lock);
    for (uint32_t i = 0; i < load_relaxed(&S.nm) && !to; i++) {
        m *mp = load_acquire(&S.allm[i]);
        if (!mp || !mp->solo) continue;
        solo++;
        /* At 0 it runs nothing, so nobody else writes the count. */
        if (load_acquire(&mp->pinned) == 0) {
            store_relaxed(&mp->pinned, 1);
            to = mp;
        }
    }
    mutex_unlock(&S.lock);
    if (!to && (solo >= MAX_SOLO || !(to = newm(NULL, false)))) return false;
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
    g_move(gp, G_RUNNABLE, G_RUNNING);
    hist_add(&pp->stat.latency, now - load_relaxed(&gp->ready_at));
    count_add(&pp->stat.schedtick, 1);
    if (mp->spinning) {
        mp->spinning = false;
        /* The last spinner that finds work wakes the next one (Go's resetspinning). */
        if (atomic_fetch_sub(&S.nspinning, 1) == 1) sched_wakep();
    }
    return gp;
}

/* Bound and fresh g's in turns: neither kind can starve the other. A turn is bounded in
 * picks and in time, and while fresh g's end without parking they run without a switch. */
static g *pick_local(m *mp, p *pp, int64_t now) {
    g *gp = NULL;
    if (mp->streak >= TURN_PICKS || now - mp->turn_since > TURN_NS) {
        mp->turn = mp->turn == TURN_BOUND ? TURN_FRESH : TURN_BOUND;
        mp->streak = 0;
        mp->turn_since = now;
    }
    for (int tries = 0; tries < 2; tries++) {
        if (mp->turn == TURN_BOUND)
            gp = boundq_pop(&mp->bound);
        else if (!mp->no_fresh) {
            gp = runq_get(&pp->runq);
            if (gp && spread(mp, gp, now)) {
                leave_to_others(pp, gp);
                gp = NULL;
            }
        }
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

/* One look into the global queue: a fresh g, or a token served (then *again). */
static g *pick_global(m *mp, p *pp, int64_t now, bool one, bool *again) {
    uint32_t n = globq_len(&S.globq);
    if (n == 0) return NULL;
    if (mp->no_fresh) { /* may serve tokens, but fresh g's are for others */
        sched_wakep();
        return NULL;
    }
    uint32_t share = n / load_relaxed(&S.procs) + 1;
    if (share > RUNQ_SIZE / 2) share = RUNQ_SIZE / 2;
    qlink *l = globq_get_batch(&S.globq, one ? 1 : share, &pp->runq);
    if (!l) return NULL;
    count_add(&pp->stat.globq_takes, 1);
    if (!l->is_token) {
        g *gp = containerof(l, g, link);
        if (!spread(mp, gp, now)) return gp;
        leave_to_others(pp, gp);
        return NULL;
    }
    if (boundq_len(&mp->bound) && now - mp->p_since < TOKEN_QUANTUM) {
        globq_put_one(&S.globq, l);
        return NULL;
    }
    serve_token(mp, containerof(l, m, token));
    *again = true;
    return NULL;
}

static bool poll_now(int64_t now) {
    if (netpoll_waiters() == 0 || load_relaxed(&S.poller)) return false;
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
    if (S.ops.spin && (mp->spin_luck > 0 || ++mp->spin_dry % 16 == 0)) until += load_relaxed(&S.spin_ns);
    uint32_t busy = load_relaxed(&S.procs) - load_relaxed(&S.nidlep);
    /* An M that starts no fresh g's may spin for its own, but doesn't count: a submitter
     * that sees a spinner relies on it. */
    if (!mp->spinning && !mp->no_fresh) {
        /* Go: half of the busy P's. But two M's whose g's talk to each other run dry in turns
         * and overlap: with only one allowed to spin, the other slept (38 us a round trip). */
        if (load_relaxed(&S.nspinning) >= (busy > 4 ? busy / 2 : 2)) return NULL;
        mp->spinning = true;
        atomic_fetch_add(&S.nspinning, 1);
    }
    for (uint32_t round = 0;; round++) {
        bool too_young = false, last = now >= until;
        g *gp = mp->no_fresh ? NULL : policy_find(pp, last, &too_young);
        if (gp || boundq_len(&mp->bound) || globq_len(&S.globq)) {
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

/* One round of looking, in Go's order. NULL: something changed (or mp slept): look again. */
static g *find_runnable(m *mp, p *pp, int64_t *now) {
    bool again = false;
    g *gp;
    if (unlikely(timers_due(&pp->timers, *now))) timers_run(&pp->timers, *now);
    if (unlikely(load_relaxed(&pp->stat.schedtick) % GLOBAL_TICK == 0 || mp->yield_to_global)) {
        mp->yield_to_global = false;
        if (!policy_skips_global(pp, *now)) {
            gp = pick_global(mp, pp, *now, true, &again);
            if (gp || again) return gp;
        }
        if (*now - load_relaxed(&S.last_poll) > 200 * MICROSECOND) poll_now(*now);
    }
    gp = pick_local(mp, pp, *now);
    if (gp) return gp;
    if (!policy_skips_global(pp, *now)) {
        gp = pick_global(mp, pp, *now, false, &again);
        if (gp || again) return gp;
    }
    if (poll_now(*now)) return NULL;
    if (sched_next_timer() <= *now) {
        sched_run_timers(*now);
        return NULL;
    }
    gp = spin(mp, pp);
    *now = nanotime();
    if (!gp && !boundq_len(&mp->bound)) stopm(mp);
    return gp;
}

g *sched_next_at(m *mp, int64_t now) {
    for (;; now = 0) {
        p *pp = load_relaxed(&mp->p);
        if (unlikely(!pp)) return NULL; /* stopping */
        if (!now) now = nanotime();
        /* A P that GOMAXPROCS took away; or what only others may start or serve, and that must
         * not wait until a locked M's own g's all sleep. */
        if (unlikely(load_relaxed(&pp->retire)) ||
            (unlikely(mp->no_fresh) && now - mp->p_since > TOKEN_QUANTUM &&
             (globq_len(&S.globq) || !runq_empty(&pp->runq)))) {
            stopm(mp);
            continue;
        }
        g *gp = find_runnable(mp, pp, &now);
        if (!gp || (unlikely(gp->solo) && !load_relaxed(&gp->m) && !mp->solo && start_solo(gp))) continue;
        return start(mp, pp, gp, now);
    }
}

/* ---------------------------------------------------------------- life */

static p *newp(uint32_t id) {
    p *pp = aligned_alloc(CACHE_LINE, sizeof(p));
    if (!pp) return NULL;
    memset(pp, 0, sizeof *pp);
    pp->id = id;
    pp->rand = 0x9E3779B97F4A7C15ULL * (id + 1);
    timers_init(&pp->timers);
    store_release(&S.allp[id], pp);
    return pp;
}

uint64_t sched_live(void) {
    uint64_t made = 0, ended = load_seq(&S.ended_outside);
    /* All that ended first: a g that ends in between is then counted as live, never the
     * reverse. */
    for (uint32_t i = 0; i < S.maxp; i++) ended += load_seq(&load_relaxed(&S.allp[i])->stat.ended);
    made += load_seq(&S.created_outside);
    for (uint32_t i = 0; i < S.maxp; i++) made += load_seq(&load_relaxed(&S.allp[i])->stat.created);
    return made - ended;
}

bool sched_deadlocked(void) {
    mutex_lock(&S.lock);
    /* In this order: a timer that fires, an event that is dispatched and a plain thread's
     * go() count until the g is in a queue. */
    bool dead = load_seq(&S.nidlep) >= load_seq(&S.procs) && load_seq(&S.nnop) == 0 &&
                globq_len(&S.globq) == 0 && load_seq(&S.external) == 0 && netpoll_waiters() == 0 &&
                sched_next_timer() == INT64_MAX && sched_live() > 0 && load_seq(&S.visitors) == 0;
    for (uint32_t i = 0; dead && i < S.maxp; i++)
        dead = load_seq(&load_relaxed(&S.allp[i])->timers.firing) == 0 && runq_empty(&load_relaxed(&S.allp[i])->runq);
    for (uint32_t i = 0; dead && i < load_relaxed(&S.nm); i++) {
        m *mp = load_acquire(&S.allm[i]);
        if (mp) dead = boundq_len(&mp->bound) == 0;
    }
    mutex_unlock(&S.lock);
    return dead;
}

uint32_t sched_set_procs(uint32_t n) {
    if (n > MAX_P) n = MAX_P;
    mutex_lock(&S.lock);
    uint32_t old = load_relaxed(&S.procs);
    while (S.maxp < n && newp(S.maxp)) S.maxp++;
    if (n > S.maxp) n = S.maxp;
    for (uint32_t i = 0; i < S.maxp; i++) {
        p *pp = load_relaxed(&S.allp[i]);
        uint32_t status = load_relaxed(&pp->status);
        store_seq(&pp->retire, i >= n);
        if (i < n && status == P_RETIRED) pidle_list(pp, P_RETIRED);
        if (i >= n && status == P_IDLE) pidle_put(pidle_get(pp));
    }
    store_seq(&S.procs, n);
    mutex_unlock(&S.lock);
    sysmon_wake();
    /* More P's: give them to M's that wait for one, and to whoever finds work. */
    for (uint32_t i = old; i < n; i++) sched_wakep();
    return old;
}

int sched_start(const host_ops *ops, uint32_t procs, uint32_t policy) {
    S.ops = *ops;
    int err = netpoll_init();
    if (err) return err;
    store_relaxed(&S.stopping, false);
    store_relaxed(&S.policy, policy);
    if (!load_relaxed(&S.next_id)) store_relaxed(&S.next_id, 1);
    if (!load_relaxed(&S.spin_ns)) store_relaxed(&S.spin_ns, 20 * MICROSECOND);
    if (!load_relaxed(&S.steal_grace_ns)) store_relaxed(&S.steal_grace_ns, 50 * MICROSECOND);
    if (sched_set_procs(procs) == 0 && S.maxp == 0) return -ENOMEM;
    store_release(&S.running, true);
    if ((err = pthread_create(&S.sysmon_thread, NULL, sysmon_main, NULL))) {
        store_release(&S.running, false);
        return -err;
    }
    return 0;
}

void sched_stop(void) {
    mutex_lock(&S.lock);
    store_seq(&S.stopping, true); /* from here on newm makes none */
    mutex_unlock(&S.lock);
    while (load_seq(&S.visitors)) sched_yield();
    mutex_lock(&S.lock);
    uint32_t nm = load_relaxed(&S.nm);
    for (uint32_t i = 0; i < nm; i++) {
        m *mp = load_relaxed(&S.allm[i]);
        if (mp) note_wake(&mp->note);
    }
    mutex_unlock(&S.lock);
    for (uint32_t i = 0; i < nm; i++) {
        m *mp = load_relaxed(&S.allm[i]);
        if (!mp) continue;
        netpoll_break();
        pthread_join(mp->thread, NULL);
    }
    store_release(&S.running, false);
    sysmon_wake();
    pthread_join(S.sysmon_thread, NULL);
    for (uint32_t i = 0; i < nm; i++) {
        m *mp = load_relaxed(&S.allm[i]);
        if (mp) free(load_relaxed(&mp->host));
        free(mp);
        store_relaxed(&S.allm[i], NULL);
    }
    for (uint32_t i = 0; i < S.maxp; i++) {
        p *pp = load_relaxed(&S.allp[i]);
        timers_free(&pp->timers);
        free(pp);
        store_relaxed(&S.allp[i], NULL);
    }
    /* epoll stays: sockets made in this run may be used in the next. */
    uint64_t next_id = load_relaxed(&S.next_id);
    S = (sched){.idlep = NULL};
    store_relaxed(&S.next_id, next_id);
}

void sched_after_fork(void) {
    /* The memory of the parent's threads is lost, once per fork: their M's and P's may be
     * in any state. */
    netpoll_fini();
    g_after_fork();
    S = (sched){.idlep = NULL};
    store_relaxed(&S.next_id, 1);
    sched_self = NULL;
}
