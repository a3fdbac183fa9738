/* idle.c: who sleeps, who is woken, and who gets the P. The protocol stands in scheduler.h. */
#include "idle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "netpoll.h"

/* A function that blocked its M undeclared for so long starts on M's of its own from then on. */
static const int64_t SOLO_AFTER = 20 * MILLISECOND;

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
void p_move(p *pp, uint32_t from, uint32_t to) {
    assert(p_legal(from, to) && load_relaxed(&pp->status) == from);
    (void)p_legal, (void)from;
    store_release(&pp->status, to);
}

void pidle_list(p *pp, uint32_t from) {
    p_move(pp, from, P_IDLE);
    store_release(&pp->m, NULL);
    span_begin(&pp->stat.idle, nanotime());
    bool reserved = load_relaxed(&pp->reserved);
    p **list = reserved ? &S.idler : &S.idlep;
    pp->next_idle = *list;
    *list = pp;
    atomic_fetch_add(reserved ? &S.nidler : &S.nidlep, 1);
}

void give_away(p *pp) {
    for (g *left; (left = runq_get(&pp->runq));) globq_put_one(&S.globq, &left->link);
}

/* The caller gives up pp, which it owns. A P that is to retire, or became reserved, leaves its
 * g's to the others: not every policy robs a retired one, and a busy M robs nobody. */
void pidle_put(p *pp) {
    bool retire = load_relaxed(&pp->retire);
    if (retire || load_relaxed(&pp->reserved)) give_away(pp);
    if (!retire) {
        pidle_list(pp, P_RUNNING);
        return;
    }
    store_release(&pp->m, NULL);
    p_move(pp, P_RUNNING, P_RETIRED);
}

/* Takes an idle P, `want` if that one is idle (its caches are warm); it is RUNNING then. */
p *pidle_get(p *want, bool latency) {
    bool reserved = latency && S.idler;
    p **list = reserved ? &S.idler : &S.idlep, **at = list;
    if (want)
        while (*at && *at != want) at = &(*at)->next_idle;
    if (!*at) at = list;
    p *pp = *at;
    if (!pp) return NULL;
    *at = pp->next_idle;
    atomic_fetch_sub(reserved ? &S.nidler : &S.nidlep, 1);
    p_move(pp, P_IDLE, P_RUNNING);
    span_end(&pp->stat.idle, nanotime());
    return pp;
}

static m **midle_list(bool latency) { return latency ? &S.idlel : &S.idlem; }

static void midle_put(m *mp) {
    m **list = midle_list(mp->latency);
    mp->next_idle = *list;
    *list = mp;
    mp->idle_listed = true;
}

static void midle_remove(m *mp) {
    if (!mp->idle_listed) return;
    for (m **at = midle_list(mp->latency); *at; at = &(*at)->next_idle)
        if (*at == mp) {
            *at = mp->next_idle;
            break;
        }
    mp->idle_listed = false;
}

/* An M that may run anybody's fresh g's of its class; the one in netpoll only if there's no
 * other. */
static m *midle_get(bool latency) {
    m *mp = *midle_list(latency);
    if (mp) {
        midle_remove(mp);
        return mp;
    }
    mp = load_relaxed(&S.poller);
    return mp && mp->latency == latency && mp->state == M_IDLE && !mp->no_fresh ? mp : NULL;
}

/* Gives pp to a sleeping mp. To be woken: unlock_and_wake. */
static void give(m *mp, p *pp) {
    assert(mp->state == M_IDLE || mp->state == M_WANTP);
    assert(load_relaxed(&pp->status) == P_RUNNING && !mp->nextp);
    midle_remove(mp);
    mp->state = M_RUN;
    mp->nextp = pp;
}

/* Ends the hold of sched.lock under which mp was given a P, or was not. */
static void unlock_and_wake(m *mp, bool given) {
    bool polling = mp->polling;
    mutex_unlock(&S.lock);
    if (!given) return;
    if (polling)
        netpoll_break();
    else
        note_wake(&mp->note);
}

/* An idle P for mp, which has none and can run something; else, if g's are bound to it, its token
 * goes into the global queue. One hold of sched.lock for both: whoever idles a P after it looks at
 * that queue, and a token queued beside an idle P would wait for nobody. Returns whether mp has a P
 * now. */
static bool p_or_token(m *mp, bool bound) {
    p *pp = pidle_get(mp->lastp, mp->latency);
    if (pp)
        give(mp, pp);
    else if (bound) {
        mp->state = M_WANTP;
        midle_remove(mp);
        if (!mp->token_queued) globq_put_one(globq_of(mp), &mp->token);
        mp->token_queued = true;
    }
    return pp;
}

static void take_p(m *mp, p *pp) {
    assert(load_relaxed(&pp->status) == P_RUNNING);
    store_release(&pp->m, mp);
    store_seq(&mp->p, pp);
    mp->lastp = pp;
    mp->p_since = nanotime();
    trace_event(TRACE_P_START, 0, 0);
    if (load_seq(&S.sysmon_asleep)) sysmon_wake();
}

/* ---------------------------------------------------------------- new M's */

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
 * threads, or everything stops. allm names an M only once its thread exists: who finds it there may use it.
 */
m *newm(p *pp, bool spinning, bool latency) {
    m *mp = aligned_alloc(CACHE_LINE, sizeof(m));
    if (!mp) return NULL;
    memset(mp, 0, sizeof *mp);
    mp->solo = mp->no_fresh = !pp;
    mp->latency = latency;
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

/* Idles pp, whose M is somewhere else: who sleeps because no P was idle may have to poll now. */
static void idle_for_others(p *pp) {
    mutex_lock(&S.lock);
    pidle_put(pp);
    mutex_unlock(&S.lock);
    sched_kick_poller();
}

/* Finds an M of that class for pp (status RUNNING, owned by the caller), or idles pp. */
static void startm(p *pp, bool spinning, bool latency) {
    mutex_lock(&S.lock);
    m *mp = midle_get(latency);
    if (mp) {
        mp->spinning = spinning;
        give(mp, pp);
        unlock_and_wake(mp, true);
        return;
    }
    mutex_unlock(&S.lock);
    if (newm(pp, spinning, latency)) return;
    if (spinning) atomic_fetch_sub(latency ? &S.nspinningl : &S.nspinning, 1);
    idle_for_others(pp);
}

/* Is there anything that any ordinary M could run? */
static bool fresh_anywhere(void) {
    if (globq_len(&S.globq)) return true;
    for (uint32_t i = 0; i < S.maxp; i++)
        if (!runq_empty(&load_relaxed(&S.allp[i])->runq)) return true;
    return false;
}

/* One M of that class looks for work, if one can: see spinners(). */
static void wake_one(bool latency, _Atomic uint32_t *nspinning) {
    for (;;) {
        uint32_t none = 0;
        if (load_seq(nspinning) != 0 || !atomic_compare_exchange_strong(nspinning, &none, 1)) return;
        mutex_lock(&S.lock);
        p *pp = pidle_get(NULL, latency);
        mutex_unlock(&S.lock);
        if (pp) {
            startm(pp, true, latency);
            return;
        }
        atomic_fetch_sub(nspinning, 1);
        /* A P that was idled since, and work that came after that: its submitter saw the 1 and
         * relied on it (Go's needspinning). */
        bool idle = load_seq(&S.nidlep) || (latency && load_seq(&S.nidler));
        if (likely(!idle) || !(latency ? globq_len(&S.latq) != 0 : fresh_anywhere())) return;
    }
}

void sched_wakep(void) {
    if (load_seq(&S.nidlep)) wake_one(false, &S.nspinning);
}

void sched_wakel(void) {
    if (load_seq(&S.nidler) || load_seq(&S.nidlep)) wake_one(true, &S.nspinningl);
}

/* A P was idled: work that came before that found nobody to wake. Not only since the look,
 * and not only this P's: its M, which blocks, is locked or is of the other class, hasn't looked
 * round before it stopped. */
static void look_again(void) {
    atomic_thread_fence(memory_order_seq_cst);
    if (globq_len(&S.latq)) sched_wakel();
    if (fresh_anywhere()) sched_wakep();
}

void sched_handoffp(p *pp, bool latency_first) {
    bool reserved = load_relaxed(&pp->reserved), latency = globq_len(&S.latq);
    bool ordinary = !reserved && (!runq_empty(&pp->runq) || globq_len(&S.globq));
    if (!load_relaxed(&pp->retire) && (latency || ordinary || timers_due(&pp->timers, nanotime()))) {
        startm(pp, false, reserved || (latency && (latency_first || !ordinary)));
        return;
    }
    idle_for_others(pp);
    look_again();
}

/* mp has a runnable g and, a moment ago, no P. */
void need_p(m *mp) {
    mutex_lock(&S.lock);
    unlock_and_wake(mp, mp->state == M_IDLE && p_or_token(mp, true));
}

/* ---------------------------------------------------------------- left behind */

static char left_told[256]; /* under sched.lock; of the first time */

const char *sched_left_told(void) { return left_told; }

static bool is_left(m *mp) {
    return mp && !mp->nextp && (mp->state == M_IDLE || mp->state == M_WANTP) && boundq_len(&mp->bound);
}

static void tell_left(m *mp) {
    p *pp = S.idlep;
    snprintf(left_told, sizeof left_told,
             "M%u: state %d, token %d, listed %d, polling %d, bound %u; %u P's idle, P%d first; poller %d, "
             "spinning %u, global %u, %u visitors",
             mp ? mp->id : 0, mp ? (int)mp->state : -1, mp && load_relaxed(&mp->token_queued),
             mp && mp->idle_listed, mp && mp->polling, mp ? boundq_len(&mp->bound) : 0,
             load_relaxed(&S.nidlep), pp ? (int)pp->id : -1, load_relaxed(&S.poller) != NULL,
             load_relaxed(&S.nspinning), globq_len(&S.globq), load_relaxed(&S.visitors));
}

bool sched_left_behind(bool rescue) {
    bool fresh = fresh_anywhere() || globq_len(&S.latq), found = fresh;
    for (uint32_t i = 0; i < load_relaxed(&S.nm) && i < MAX_M; i++) {
        m *mp = load_acquire(&S.allm[i]);
        mutex_lock(&S.lock);
        bool left = is_left(mp);
        if (left && rescue) {
            if (!left_told[0]) tell_left(mp);
            mp->state = M_IDLE; /* a token that is in the queue finds it served */
        }
        mutex_unlock(&S.lock);
        if (left && rescue) need_p(mp);
        found |= left;
    }
    if (fresh && rescue) {
        mutex_lock(&S.lock);
        if (!left_told[0]) tell_left(NULL);
        mutex_unlock(&S.lock);
        look_again();
    }
    return found;
}

/* ---------------------------------------------------------------- sleeping */

/* Should mp, which has no P, be the one in netpoll? Only while it could have a P, or if those
 * that run haven't looked for events for a while: they had better find their own in passing. (An
 * echo server with one P lost a third of its throughput to an idle M that polled for it.) */
static bool should_poll(m *mp) {
    if (load_relaxed(&S.poller)) return false;
    if (load_relaxed(&S.nidlep) || (mp->latency && load_relaxed(&S.nidler))) return true;
    return nanotime() - load_relaxed(&S.last_look) > POLLER_AFTER;
}

/* The M (state M_IDLE or M_WANTP, P released) sleeps until it was given a P. */
static void sleep_until_given(m *mp) {
    for (;;) {
        mutex_lock(&S.lock);
        p *pp = mp->nextp;
        if (!pp && load_relaxed(&S.stopping)) {
            mutex_unlock(&S.lock);
            return;
        }
        bool poll = !pp && should_poll(mp);
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
        span_begin(&S.polled, nanotime()); /* there is one poller at a time */
        netpoll(until);
        int64_t now = nanotime();
        store_relaxed(&S.last_poll, now);
        span_end(&S.polled, now);
        sched_run_timers(now);
        mutex_lock(&S.lock);
        store_seq(&S.poller, NULL);
        mp->polling = false;
        if (!mp->nextp) {
            /* One look: whoever pushes after it comes to need_p and finds mp M_IDLE. (With a second
             * one, which saw what a plain thread or sysmon had pushed since the first, the token was
             * queued without a look for a P: with all P's idle, a wake-up was lost.) */
            bool bound = boundq_len(&mp->bound);
            bool work = bound || (!mp->no_fresh && globq_len(globq_of(mp)));
            bool given = work && p_or_token(mp, bound);
            if (!given && !mp->no_fresh && mp->state == M_IDLE) midle_put(mp);
        }
        mutex_unlock(&S.lock);
        check_deadlock();
    }
}

/* Is there anything that mp could start? */
static bool fresh_for(m *mp) {
    return !mp->no_fresh && (mp->latency ? globq_len(&S.latq) != 0 : fresh_anywhere());
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
void stopm(m *mp, bool leave) {
    p *pp = load_relaxed(&mp->p);
    trace_event(TRACE_P_STOP, 0, 0);
    mutex_lock(&S.lock);
    mp->state = M_IDLE;
    store_seq(&mp->p, NULL);
    bool spinning = drop_spinning(mp);
    if (!mp->no_fresh) midle_put(mp);
    if (!leave) pidle_put(pp);
    mutex_unlock(&S.lock);
    if (leave) sched_handoffp(pp, !mp->latency);
    if (spinning) atomic_fetch_sub(spinners(mp), 1);
    atomic_thread_fence(memory_order_seq_cst);
    /* Whoever submitted before the drop is seen here; whoever submits after it wakes us. What
     * isn't for mp's class, but could use the P, is seen, too. */
    if (unlikely(mp->latency || globq_len(&S.latq))) look_again();
    bool fresh = fresh_for(mp);
    if (fresh || boundq_len(&mp->bound)) {
        mutex_lock(&S.lock);
        /* M_WANTP, too: its token may wait beside a P that was idled meanwhile by who saw mp still
         * counted as spinning, and woke nobody. */
        if (mp->state != M_RUN && p_or_token(mp, boundq_len(&mp->bound)) && fresh) {
            /* Several may have submitted and relied on it while it was spinning: it is again,
             * and wakes the next one when it takes one of theirs (Go's becomeSpinning). */
            mp->spinning = true;
            atomic_fetch_add(spinners(mp), 1);
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
void serve_token(m *mp, m *to) {
    p *pp = load_relaxed(&mp->p);
    mutex_lock(&S.lock);
    to->token_queued = false;
    bool waits = to->state == M_WANTP; /* it may have found a P by itself meanwhile */
    bool given = waits && p_or_token(to, false);
    if (!waits || given) {
        unlock_and_wake(to, given);
        return;
    }
    count_add(&pp->stat.tokens, 1);
    trace_event(TRACE_TOKEN, 0, to->id);
    trace_event(TRACE_P_STOP, 0, 0);
    mp->state = M_IDLE;
    store_seq(&mp->p, NULL);
    bool spinning = drop_spinning(mp);
    atomic_thread_fence(memory_order_seq_cst);
    if (boundq_len(&mp->bound))
        p_or_token(mp, true);
    else if (!mp->no_fresh)
        midle_put(mp);
    give(to, pp);
    unlock_and_wake(to, true);
    if (spinning) { /* mp has not looked round since others may have relied on that */
        atomic_fetch_sub(spinners(mp), 1);
        look_again();
    }
    S.ops.detach(mp);
    sleep_until_given(mp);
    S.ops.attach(mp);
}

bool sched_blocked_long(m *mp) {
    return load_acquire(&mp->hold) == HOLD_TAKEN && load_relaxed(&mp->nop_undeclared) &&
           nanotime() - load_relaxed(&mp->nop_since) > SOLO_AFTER;
}

static p *reacquire(m *mp) {
    g *gp = load_relaxed(&mp->cur);
    if (gp && load_relaxed(&mp->nop_undeclared) && nanotime() - load_relaxed(&mp->nop_since) > SOLO_AFTER)
        gp->blocked = true;
    mutex_lock(&S.lock);
    atomic_fetch_sub(&S.nnop, 1);
    mp->state = M_IDLE;
    p_or_token(mp, true);
    mutex_unlock(&S.lock);
    trace_event(TRACE_RETURN, cur_id(mp), 0);
    S.ops.detach(mp);
    while (!load_relaxed(&mp->p) && !load_relaxed(&S.stopping)) sleep_until_given(mp);
    S.ops.attach(mp);
    trace_event(TRACE_RESUME, cur_id(mp), 0);
    return load_relaxed(&mp->p);
}

p *sched_came_back(m *mp, uint32_t hold) {
    if (hold == HOLD_TAKEN) return reacquire(mp);
    trace_event(TRACE_SYSCALL_EXIT, cur_id(mp), 0);
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
        if (tracing()) trace_emit_owner(pp, mp, TRACE_RETAKE, cur_id(mp), from == HOLD_SYSCALL);
        store_seq(&mp->p, NULL);
        atomic_fetch_add(&S.nnop, 1);
    } else
        pp = NULL;
    mutex_unlock(&S.lock);
    return pp;
}
