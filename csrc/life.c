/* life.c: starting and stopping, the number of P's, and questions about everybody. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "idle.h"
#include "netpoll.h"

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
    m *mp = NULL;
    mutex_lock(&S.lock);
    if (!load_relaxed(&S.poller)) {
        mp = S.idlem ? S.idlem : S.idlel;
        /* Locked and solo M's aren't listed. */
        for (uint32_t i = 0; !mp && i < load_relaxed(&S.nm) && i < MAX_M; i++) {
            m *any = load_acquire(&S.allm[i]);
            if (any && any->state == M_IDLE) mp = any;
        }
    }
    mutex_unlock(&S.lock);
    if (mp) note_wake(&mp->note);
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
    uint64_t made = 0, ended = 0;
    /* All that ended first: a g that ends in between is then counted as live, never the
     * reverse. */
    for (uint32_t i = 0; i < S.maxp; i++) ended += load_seq(&load_relaxed(&S.allp[i])->stat.ended);
    made += load_seq(&S.created_outside);
    for (uint32_t i = 0; i < S.maxp; i++) made += load_seq(&load_relaxed(&S.allp[i])->stat.created);
    return made - ended;
}

bool count_outside(void) {
    if (!sched_look()) return false;
    visit();
    atomic_fetch_add(&S.created_outside, 1);
    /* Who ends the run sets draining, then looks at the number of g's: one of the two is seen. */
    if (!load_seq(&S.draining)) return true;
    atomic_fetch_sub(&S.created_outside, 1);
    check_last();
    count_outside_end();
    return false;
}

void count_outside_end(void) {
    visit_end();
    sched_look_end();
}

void check_last(void) {
    if (sched_live() == 0) S.ops.idle();
}

/* Comparing counts wouldn't do: a P that is to retire runs until its M looks. */
bool sched_all_idle(void) {
    for (uint32_t i = 0; i < S.maxp; i++)
        if (load_seq(&load_relaxed(&S.allp[i])->status) == P_RUNNING) return false;
    return load_seq(&S.nnop) == 0;
}

/* Not in S: a call may outlive the runtime in which it was made, and end in the next one. */
static _Atomic uint32_t external;

uint32_t sched_externals(void) { return load_relaxed(&external); }

void sched_external(int32_t by) {
    /* The g that the call woke may have parked for good before this count fell: then its M saw a
     * call under way, and nobody else looks again. */
    if (atomic_fetch_add(&external, (uint32_t)by) + (uint32_t)by || !sched_look()) return;
    check_deadlock();
    sched_look_end();
}

/* The same holds for a g that a visitor made or woke. */
void visit_end(void) {
    bool look = sched_look();
    if (atomic_fetch_sub(&S.visitors, 1) == 1 && look) check_deadlock();
    if (look) sched_look_end();
}

void check_deadlock(void) {
    if (sched_all_idle() && sched_deadlocked()) S.ops.idle();
}

bool sched_deadlocked(void) {
    mutex_lock(&S.lock);
    /* First those who may wake one, then the queues: a timer that fires, an event that is
     * dispatched and a plain thread's go() count until the g is in a queue. No P leaves the idle
     * ones meanwhile, so it stays there. */
    bool dead = sched_all_idle() && load_seq(&external) == 0 && netpoll_waiters() == 0 &&
                sched_next_timer() == INT64_MAX && sched_live() > 0 && load_seq(&S.visitors) == 0;
    for (uint32_t i = 0; dead && i < S.maxp; i++)
        dead = load_seq(&load_relaxed(&S.allp[i])->timers.firing) == 0;
    dead = dead && globq_len(&S.globq) == 0 && globq_len(&S.latq) == 0;
    for (uint32_t i = 0; dead && i < S.maxp; i++) dead = runq_empty(&load_relaxed(&S.allp[i])->runq);
    for (uint32_t i = 0; dead && i < load_relaxed(&S.nm); i++) {
        m *mp = load_acquire(&S.allm[i]);
        if (mp) dead = boundq_len(&mp->bound) == 0;
    }
    mutex_unlock(&S.lock);
    return dead;
}

/* Only if there is work for it: a latency M that was made for nothing would sit in netpoll, and
 * the one that runs everything would hear of every event from it (an echo server with one P lost
 * a third of its throughput). */
static void wake_latency(void) {
    if (globq_len(&S.latq)) sched_wakel();
}

uint32_t sched_set_procs(uint32_t n) {
    if (n > MAX_P) n = MAX_P;
    mutex_lock(&S.lock);
    uint32_t old = load_relaxed(&S.procs), reserve = load_relaxed(&S.reserve);
    if (n <= reserve) n = reserve + 1;
    while (S.maxp < n && newp(S.maxp)) S.maxp++;
    if (n > S.maxp) n = S.maxp;
    for (uint32_t i = 0; i < S.maxp; i++) {
        p *pp = load_relaxed(&S.allp[i]);
        uint32_t status = load_relaxed(&pp->status);
        store_seq(&pp->retire, i >= n);
        if (i < n && status == P_RETIRED) pidle_list(pp, P_RETIRED);
        if (i >= n && status == P_IDLE) pidle_put(pidle_get(pp, false));
    }
    store_seq(&S.procs, n);
    trace_event(TRACE_PROCS, 0, n);
    mutex_unlock(&S.lock);
    sysmon_wake();
    /* More P's: give them to M's that wait for one, and to whoever finds work. */
    for (uint32_t i = old; i < n; i++) {
        wake_latency();
        sched_wakep();
    }
    check_deadlock(); /* whoever looked while an idle P was moved took it for a busy one */
    return old;
}

uint32_t sched_set_reserve(uint32_t n) {
    mutex_lock(&S.lock);
    uint32_t old = load_relaxed(&S.reserve), procs = load_relaxed(&S.procs);
    if (n >= procs) n = procs - 1;
    for (uint32_t i = 0; i < procs; i++) {
        p *pp = load_relaxed(&S.allp[i]);
        bool reserved = i < n;
        if (load_relaxed(&pp->reserved) == reserved) continue;
        bool idle = load_relaxed(&pp->status) == P_IDLE;
        if (idle) pidle_get(pp, !reserved); /* from the list that it is in */
        store_seq(&pp->reserved, reserved);
        if (idle) pidle_put(pp); /* a reserved one keeps no g's */
    }
    store_seq(&S.reserve, n);
    mutex_unlock(&S.lock);
    sysmon_wake(); /* who holds a P that isn't for him any more */
    wake_latency();
    for (uint32_t i = n; i < old; i++) sched_wakep();
    sched_wakep();    /* what it gave away */
    check_deadlock(); /* as above */
    return old;
}

/* Not in S, which sched_stop clears. Dekker: a looker counts itself, then looks whether it may;
 * sched_stop forbids it, then waits until nobody counts. */
static _Atomic uint32_t lookers;
static _Atomic bool may_look;

bool sched_look(void) {
    atomic_fetch_add(&lookers, 1);
    if (load_seq(&may_look)) return true;
    sched_look_end();
    return false;
}

void sched_look_end(void) { atomic_fetch_sub(&lookers, 1); }

int sched_start(const host_ops *ops, uint32_t procs, uint32_t policy) {
    S.ops = *ops;
    int err = netpoll_init();
    if (err) return err;
    store_relaxed(&S.stopping, false);
    store_relaxed(&S.policy, policy);
    if (!load_relaxed(&S.next_id)) store_relaxed(&S.next_id, 1);
    if (!load_relaxed(&S.spin_ns)) store_relaxed(&S.spin_ns, 20 * MICROSECOND);
    if (!load_relaxed(&S.steal_grace_ns)) store_relaxed(&S.steal_grace_ns, 50 * MICROSECOND);
    if (!load_relaxed(&S.slice_ns)) store_relaxed(&S.slice_ns, 10 * MILLISECOND);
    if (sched_set_procs(procs) == 0 && S.maxp == 0) return -ENOMEM;
    store_release(&S.running, true);
    if ((err = pthread_create(&S.sysmon_thread, NULL, sysmon_main, NULL))) {
        store_release(&S.running, false);
        return -err;
    }
    store_seq(&may_look, true);
    return 0;
}

void sched_stop(void) {
    store_seq(&may_look, false);
    mutex_lock(&S.lock);
    store_seq(&S.stopping, true); /* from here on newm makes none */
    mutex_unlock(&S.lock);
    while (load_seq(&S.visitors) || load_seq(&lookers)) sched_yield();
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
    trace_runtime_ends();
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
    trace_runtime_ended();
}

void sched_after_fork(void) {
    /* The memory of the parent's threads is lost, once per fork: their M's and P's may be
     * in any state. */
    netpoll_fini();
    g_after_fork();
    trace_after_fork();
    S = (sched){.idlep = NULL};
    store_relaxed(&S.next_id, 1);
    store_relaxed(&lookers, 0);
    store_relaxed(&external, 0);
    store_relaxed(&may_look, false);
    sched_self = NULL;
}
