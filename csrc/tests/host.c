#include "host.h"

#include <sys/socket.h>
#include <unistd.h>

_Atomic uint64_t host_steps, host_idles, host_preempts;
bool host_spin = true;
bool host_left_behind;
bool host_reserve_stays;

static note all_ended;
static _Atomic(task *) tasks; /* all of this run, freed at its end */

static void host_detach(m *mp) { store_release(&((mhost *)mp->host)->state, HOST_DETACHED); }
static void host_attach(m *mp) { store_release(&((mhost *)mp->host)->state, HOST_RUNNING); }

static enum host_state host_state(m *mp) {
    mhost *h = load_acquire(&mp->host);
    return h ? (enum host_state)load_acquire(&h->state) : HOST_UNKNOWN;
}

static bool host_preempt(m *mp) {
    mhost *h = load_acquire(&mp->host);
    if (!h) return false;
    store_release(&h->preempt, 1);
    return true;
}

static void host_idle(void) {
    atomic_fetch_add(&host_idles, 1);
    if (load_seq(&S.draining) && sched_live() == 0) note_wake(&all_ended);
}

static void run_step(m *mp, g *gp) {
    task *t = gp->host;
    m *home = NULL;
    CHECK(g_status(gp) == G_RUNNING && load_relaxed(&gp->m) == mp);
    CHECK(load_relaxed(&mp->p) && load_relaxed(&load_relaxed(&mp->p)->m) == mp);
    CHECK(!mp->latency || gp->latency);
    if (host_reserve_stays) CHECK(!load_relaxed(&mp->p)->reserved || gp->latency);
    CHECK(atomic_exchange(&t->running, 1) == 0);
    CHECK(load_relaxed(&t->ended) == 0);
    if (!atomic_compare_exchange_strong(&t->home, &home, mp)) CHECK(home == mp);
    if (t->deadline) {
        timer_remove(&gp->timer);
        t->deadline = 0;
    }
    store_relaxed(&mp->cur, gp);
    sched_leave(mp);
    t->nsteps++;
    enum step r = t->step(t, mp);
    p *pp = sched_enter(mp);
    CHECK(pp && pp == load_relaxed(&mp->p));
    atomic_fetch_add_explicit(&host_steps, 1, memory_order_relaxed);
    store_relaxed(&mp->cur, NULL);
    switch (r) {
    case STEP_PARK:
        if (t->deadline) {
            CHECK(timers_add(&pp->timers, &gp->timer, t->deadline, &gp->parker,
                             load_relaxed(&gp->parker.word) >> 2));
            sched_timer_added(t->deadline);
        }
        trace_park(gp, load_relaxed(&gp->reason), 0);
        store_seq(&t->running, 0);
        break;
    case STEP_YIELD:
        store_seq(&t->running, 0);
        sched_yield_g(mp, gp, nanotime());
        break;
    case STEP_END:
        store_seq(&t->running, 0);
        store_seq(&t->ended, 1);
        gp->host = NULL;
        sched_end(mp, gp);
        g_free(gp);
        break;
    }
}

static void m_main(m *mp) {
    mhost *h = calloc(1, sizeof *h);
    CHECK(h);
    store_release(&mp->host, h);
    for (g *gp; (gp = sched_next(mp));) run_step(mp, gp);
}

void host_start(uint32_t procs, uint32_t policy) {
    static const host_ops ops = {
        .m_main = m_main,
        .detach = host_detach,
        .attach = host_attach,
        .state = host_state,
        .preempt = host_preempt,
        .idle = host_idle,
    };
    host_ops with_spin = ops;
    with_spin.spin = host_spin;
    store_relaxed(&all_ended.set, 0);
    check_dump = host_dump;
    CHECK_EQ(sched_start(&with_spin, procs, policy), 0);
}

void host_stop(void) {
    store_seq(&S.draining, true);
    while (sched_live() != 0) note_sleep(&all_ended, 0);
    sched_stop();
    if (!host_left_behind && sched_left_told()[0]) check_failed("a lost wake-up", 0, sched_left_told());
    check_dump = NULL;
    for (task *t = atomic_exchange(&tasks, NULL), *next; t; t = next) {
        CHECK(load_relaxed(&t->ended) == 1);
        next = t->next;
        free(t);
    }
}

static task *start(step_fn step, int64_t n, void *arg, bool solo, bool latency) {
    static _Atomic uint64_t serial;
    task *t = calloc(1, sizeof *t);
    CHECK(t);
    t->step = step;
    t->n = n;
    t->arg = arg;
    t->rand = seed((int)atomic_fetch_add(&serial, 1));
    t->next = load_relaxed(&tasks);
    while (!atomic_compare_exchange_weak(&tasks, &t->next, t)) {
    }
    t->gp = g_alloc();
    CHECK(t->gp);
    t->gp->host = t;
    t->gp->solo = solo;
    t->gp->latency = latency;
    m *mp = sched_self;
    if (mp) sched_enter(mp);
    sched_go(t->gp);
    if (mp) sched_leave(mp);
    return t;
}

task *host_go(step_fn step, int64_t n, void *arg) { return start(step, n, arg, false, false); }
task *host_go_solo(step_fn step, int64_t n, void *arg) { return start(step, n, arg, true, false); }
task *host_go_latency(step_fn step, int64_t n, void *arg) { return start(step, n, arg, false, true); }
task *host_go_latency_solo(step_fn step, int64_t n, void *arg) { return start(step, n, arg, true, true); }

uint8_t task_wake(task *t) { return t->gp->parker.wake; }

void task_sleep(task *t, int64_t ns) {
    wait_begin(&t->gp->parker);
    t->deadline = nanotime() + ns;
}

bool task_preempted(m *mp) {
    mhost *h = mp->host;
    if (!load_relaxed(&h->preempt) || !atomic_exchange(&h->preempt, 0)) return false;
    atomic_fetch_add(&host_preempts, 1);
    mp->yield_to_global = true;
    return true;
}

void task_block_declared(m *mp, int64_t ns) {
    sched_syscall(mp);
    pause_ns(ns);
    CHECK(sched_enter(mp));
    sched_leave(mp);
}

/* It comes back as code that nobody declared does: without a look at its P. */
void task_block_undeclared(m *mp, int64_t ns) {
    host_detach(mp);
    pause_ns(ns);
    host_attach(mp);
}

void task_lock_m(m *mp, int by) {
    mp->locks += by;
    mp->no_fresh = mp->locks > 0 || mp->solo;
    sched_enter(mp);
    if (mp->latency)
        sched_wakel();
    else
        sched_wakep();
    sched_leave(mp);
}

bool task_cancel(task *t) {
    if (!parker_claim_any(&t->gp->parker, WAKE_CANCEL)) return false;
    parker_unpark(&t->gp->parker);
    return true;
}

void host_connect(conn ends[2]) {
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0);
    for (int i = 0; i < 2; i++) {
        ends[i] = (conn){.fd = fds[i], .d = netpoll_open(fds[i])};
        CHECK(ends[i].d);
    }
}

void host_disconnect(conn ends[2]) {
    for (int i = 0; i < 2; i++) {
        netpoll_close(ends[i].d);
        close(ends[i].fd);
        netpoll_free(ends[i].d);
    }
}

void host_dump(void) {
    fprintf(stderr, "reserve=%u nidler=%u nspinningl=%u latq=%u\n", S.reserve, S.nidler, S.nspinningl,
            globq_len(&S.latq));
    fprintf(stderr,
            "live=%llu procs=%u nidlep=%u nspinning=%u nm=%u nnop=%u globq=%u netpoll=%u poller=%d "
            "next_timer=%lld\n",
            (unsigned long long)sched_live(), S.procs, S.nidlep, S.nspinning, S.nm, S.nnop,
            globq_len(&S.globq), netpoll_waiters(), S.poller ? (int)S.poller->id : -1,
            sched_next_timer() == INT64_MAX ? -1 : (long long)(sched_next_timer() - nanotime()));
    for (uint32_t i = 0; i < S.maxp; i++) {
        p *pp = S.allp[i];
        fprintf(stderr, "  P%u status=%u m=%d retire=%d reserved=%d runq=%u tick=%llu\n", i, pp->status,
                pp->m ? (int)pp->m->id : -1, pp->retire, pp->reserved, runq_len(&pp->runq),
                (unsigned long long)pp->stat.schedtick);
    }
    for (uint32_t i = 0; i < S.nm && i < MAX_M; i++) {
        m *mp = S.allm[i];
        if (!mp) continue;
        fprintf(stderr,
                "  M%u state=%d hold=%u p=%d nextp=%d bound=%u listed=%d token=%d polling=%d spinning=%d "
                "no_fresh=%d latency=%d cur=%p note=%u\n",
                i, mp->state, mp->hold, mp->p ? (int)mp->p->id : -1, mp->nextp ? (int)mp->nextp->id : -1,
                boundq_len(&mp->bound), mp->idle_listed, mp->token_queued, mp->polling, mp->spinning,
                mp->no_fresh, mp->latency, (void *)mp->cur, mp->note.set);
    }
    uint32_t by[5] = {0};
    for (uint32_t i = 0; i < g_slots(); i++) {
        g *gp = g_at(i);
        uint32_t s = g_status(gp);
        by[s]++;
        task *t = s == G_IDLE ? NULL : gp->host;
        if (t && by[s] <= 8)
            fprintf(stderr, "  g%u status=%u m=%d pc=%d n=%lld steps=%u timer=%d parker=%llx\n", i, s,
                    gp->m ? (int)gp->m->id : -1, t->pc, (long long)t->n, t->nsteps, gp->timer.index,
                    (unsigned long long)gp->parker.word);
    }
    fprintf(stderr, "  g's: idle=%u runnable=%u running=%u waiting=%u\n", by[0], by[1], by[2], by[3]);
}
