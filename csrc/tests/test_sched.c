/* The scheduler's rules, one test each. test_sched_stress.c mixes them all. */
#include <errno.h>
#include <unistd.h>

#include "../idle.h"
#include "host.h"

static _Atomic uint64_t done;
static _Atomic bool flag;

static enum step step_count(task *t, m *mp) {
    (void)t, (void)mp;
    atomic_fetch_add(&done, 1);
    return STEP_END;
}

static void begin(uint32_t procs, uint32_t policy) {
    store_seq(&done, 0);
    store_seq(&flag, false);
    host_start(procs, policy);
}

/* ---------------------------------------------------------------- life */

static void every_fresh_g_runs_once(void) {
    for (uint32_t policy = 0; policy < POLICIES; policy++)
        for (uint32_t procs = 1; procs <= 4; procs *= 2) {
            begin(procs, policy);
            for (int i = 0; i < 2000; i++) host_go(step_count, 0, NULL);
            host_stop();
            CHECK_EQ(done, 2000);
        }
}

static enum step step_spawn(task *t, m *mp) {
    if (t->n-- == 0) return STEP_END;
    for (int i = 0; i < 700; i++) host_go(step_count, 0, NULL); /* more than a ring holds */
    (void)mp;
    return STEP_YIELD;
}

static void overflowing_rings_lose_nothing(void) {
    for (uint32_t procs = 1; procs <= 4; procs *= 2) {
        begin(procs, POLICY_GO);
        for (int i = 0; i < 4; i++) host_go(step_spawn, 5, NULL);
        host_stop();
        CHECK_EQ(done, 4 * 5 * 700);
    }
}

/* Each start and stop is a chance for a thread that is made too late to be joined. */
static void start_and_stop_again_and_again(void) {
    uint32_t slots = 0;
    for (int64_t i = 0; i < scaled(300); i++) {
        begin(1 + (uint32_t)i % 4, (uint32_t)i % POLICIES);
        for (int k = 0; k < 20; k++) host_go(step_spawn, 0, NULL);
        host_go(step_count, 0, NULL);
        host_stop();
        CHECK_EQ(done, 1);
        if (i == 20) slots = g_slots();
    }
    if (slots) CHECK(g_slots() <= slots + 1024); /* threads give their g's back when they end */
}

/* ---------------------------------------------------------------- pinning and turns */

static enum step step_yields(task *t, m *mp) {
    (void)mp;
    return t->n-- > 0 ? STEP_YIELD : STEP_END;
}

static void yielding_gs_stay_on_their_ms(void) { /* checked by the host at each step */
    for (uint32_t procs = 1; procs <= 4; procs *= 2) {
        begin(procs, POLICY_GO);
        for (int i = 0; i < 20; i++) host_go(step_yields, scaled(5000), NULL);
        host_stop();
    }
}

/* Found once in 20 runs of Python's tests: on a busy machine a turn of bound g's could begin
 * just when the only one yielded to one that hadn't started yet; it went on, again and again. */
static enum step step_yields_to_fresh(task *t, m *mp) {
    if (t->n-- == 0) return STEP_END;
    if (t->pc++ % 2) {
        CHECK_EQ(done, 1);
        store_seq(&done, 0);
        return STEP_YIELD;
    }
    host_go(step_count, 0, NULL);
    mp->turn = TURN_BOUND; /* as after TURN_NS */
    mp->streak = 0;
    mp->turn_since = nanotime();
    return STEP_YIELD;
}

static void who_yields_alone_lets_fresh_ones_run(void) {
    begin(1, POLICY_GO);
    host_go(step_yields_to_fresh, 100, NULL);
    host_stop();
}

static enum step step_yield_until_flag(task *t, m *mp) {
    (void)t, (void)mp;
    return load_seq(&flag) ? STEP_END : STEP_YIELD;
}

static enum step step_set_flag(task *t, m *mp) {
    (void)t, (void)mp;
    store_seq(&flag, true);
    return STEP_END;
}

static void bound_gs_dont_starve_fresh_ones(void) {
    begin(1, POLICY_GO);
    for (int i = 0; i < 3; i++) host_go(step_yield_until_flag, 0, NULL);
    pause_ns(5 * MILLISECOND);
    host_go(step_set_flag, 0, NULL);
    host_stop();
}

static enum step step_spawn_until_flag(task *t, m *mp) {
    (void)mp;
    if (!load_seq(&flag)) host_go(step_spawn_until_flag, 0, NULL);
    (void)t;
    return STEP_END;
}

static void fresh_gs_dont_starve_bound_ones(void) {
    begin(1, POLICY_GO);
    task *t = host_go(step_yields, 200, NULL);
    host_go(step_spawn_until_flag, 0, NULL);
    while (!load_seq(&t->ended)) pause_ns(MILLISECOND);
    store_seq(&flag, true);
    host_stop();
}

/* An M that starts no fresh g's must not keep the only P for its own for ever. */
static enum step step_locked_yields(task *t, m *mp) {
    if (t->pc == 0) {
        t->pc = 1;
        task_lock_m(mp, 1);
    }
    if (!load_seq(&flag)) return STEP_YIELD;
    task_lock_m(mp, -1);
    return STEP_END;
}

static void locked_m_doesnt_starve_fresh_gs(void) {
    begin(1, POLICY_GO);
    host_go(step_locked_yields, 0, NULL);
    pause_ns(5 * MILLISECOND);
    host_go(step_set_flag, 0, NULL);
    host_stop();
}

/* With one P: t runs on an M of its own (the first is locked), which then is starved
 * of the P by the locked one, unless tokens are served. */
static enum step step_sleeps(task *t, m *mp) {
    (void)mp;
    if (t->n-- == 0) {
        store_seq(&flag, true);
        return STEP_END;
    }
    task_sleep(t, 100 * MICROSECOND);
    return STEP_PARK;
}

static void locked_m_serves_tokens(void) {
    begin(1, POLICY_GO);
    host_go(step_locked_yields, 0, NULL);
    host_go(step_locked_yields, 0, NULL);
    pause_ns(2 * MILLISECOND);
    host_go(step_sleeps, 20, NULL);
    host_stop();
}

/* Four M's with g's that only yield, one P: the tokens go round. */
static _Atomic uint64_t turns[4];
static enum step step_take_turns(task *t, m *mp) {
    if (t->pc == 0) { /* start on four M's: none comes back from its call before all have begun one */
        t->pc = 1;
        sched_syscall(mp);
        atomic_fetch_add(&done, 1);
        while (load_seq(&done) < 4) pause_ns(100 * MICROSECOND);
        CHECK(sched_enter(mp));
        sched_leave(mp);
    }
    atomic_fetch_add(&turns[t->n], 1);
    for (int i = 0; i < 4; i++)
        if (load_relaxed(&turns[i]) < 200) return STEP_YIELD;
    return STEP_END;
}

static void tokens_share_one_p_among_ms(void) {
    memset(turns, 0, sizeof turns);
    begin(1, POLICY_GO);
    task *t[4];
    for (int i = 0; i < 4; i++) t[i] = host_go(step_take_turns, i, NULL);
    while (!t[0]->ended || !t[1]->ended || !t[2]->ended || !t[3]->ended) pause_ns(MILLISECOND);
    int ms = 0;
    for (int i = 0; i < 4; i++)
        for (int k = 0; k <= i; k++) {
            if (k == i) ms++;
            if (t[k]->home == t[i]->home && k != i) break;
        }
    CHECK_EQ(ms, 4);
    host_stop();
}

/* ---------------------------------------------------------------- blocking */

static enum step step_block_declared(task *t, m *mp) {
    task_block_declared(mp, t->n);
    atomic_fetch_add(&done, 1);
    return STEP_END;
}

static enum step step_block_undeclared(task *t, m *mp) {
    task_block_undeclared(mp, t->n);
    atomic_fetch_add(&done, 1);
    return STEP_END;
}

static void handoff(step_fn blocker) {
    begin(1, POLICY_GO);
    host_go(blocker, SECOND, NULL);
    pause_ns(2 * MILLISECOND);
    int64_t start = nanotime();
    task *t = host_go(step_set_flag, 0, NULL);
    while (!load_seq(&t->ended)) pause_ns(100 * MICROSECOND);
    CHECK(nanotime() - start < 900 * MILLISECOND);
    CHECK_EQ(done, 0);
    CHECK(load_seq(&S.nnop) == 1);
    host_stop();
    CHECK_EQ(done, 1);
}

static void p_is_handed_off_while_an_m_blocks_declared(void) { handoff(step_block_declared); }
static void p_is_handed_off_while_an_m_blocks_undeclared(void) { handoff(step_block_undeclared); }

/* Code that lost its P undeclared and then declares a call must not forget that it did. */
static enum step step_block_both(task *t, m *mp) {
    if (t->pc++ == 0) {
        S.ops.detach(mp); /* for as long as sysmon needs to take its P */
        while (load_seq(&mp->p)) pause_ns(MILLISECOND);
        S.ops.attach(mp);
        CHECK(load_relaxed(&mp->hold) == HOLD_TAKEN);
        task_block_declared(mp, 100 * MICROSECOND);
        return STEP_YIELD;
    }
    atomic_fetch_add(&done, 1);
    return STEP_END;
}

static void declaring_a_call_keeps_in_mind_that_the_p_is_gone(void) {
    begin(1, POLICY_GO);
    host_go(step_yield_until_flag, 0, NULL);
    host_go(step_block_both, 0, NULL);
    while (load_seq(&done) == 0) pause_ns(MILLISECOND);
    store_seq(&flag, true);
    host_stop();
}

static enum step step_hog(task *t, m *mp) {
    if (load_seq(&flag)) return STEP_END;
    int64_t end = nanotime() + t->n;
    while (nanotime() < end && !load_seq(&flag))
        if (task_preempted(mp)) return STEP_YIELD;
    return STEP_END;
}

static void hogs_are_preempted(void) {
    for (uint32_t procs = 1; procs <= 2; procs++) {
        begin(procs, POLICY_GO);
        for (uint32_t i = 0; i < procs * 2; i++) host_go(step_hog, 20 * SECOND, NULL);
        pause_ns(5 * MILLISECOND);
        host_go(step_set_flag, 0, NULL);
        host_stop();
    }
    CHECK(load_seq(&host_preempts) > 0);
}

/* ---------------------------------------------------------------- timers, netpoll */

static _Atomic int64_t worst;

static enum step step_on_time(task *t, m *mp) {
    (void)mp;
    if (t->pc++) {
        int64_t late = nanotime() - (int64_t)(intptr_t)t->arg;
        CHECK(late >= 0);
        CHECK_EQ(task_wake(t), WAKE_TIMEOUT);
        if (late > load_relaxed(&worst)) store_relaxed(&worst, late);
    }
    if (t->n-- == 0) return STEP_END;
    task_sleep(t, rand_next(&t->rand) % (3 * MILLISECOND));
    t->arg = (void *)(intptr_t)t->deadline;
    return STEP_PARK;
}

static void sleeping_gs_wake_on_time(void) {
    for (uint32_t procs = 1; procs <= 4; procs *= 2) {
        store_seq(&worst, 0);
        begin(procs, POLICY_GO);
        for (int i = 0; i < 50; i++) host_go(step_on_time, scaled(100), NULL);
        host_stop();
        fprintf(stderr, "  sleeping_gs, %u P's: worst lateness %.2f ms\n", procs, (double)worst / 1e6);
        CHECK(load_seq(&worst) < 2 * SECOND); /* none was forgotten; threads may wait for a CPU for long */
    }
}

/* t->arg: the other; two g's on two M's wake each other through a channel, nothing else
 * is going on: no lost wake-up is healed by chance. */
static chan ping, pong;

static enum step step_ping(task *t, m *mp) {
    (void)mp;
    chan *out = t->arg == &ping ? &ping : &pong, *in = out == &ping ? &pong : &ping;
    for (;;) switch (t->pc) {
        case 0:
            if (t->n-- == 0) return STEP_END;
            t->pc = t->arg == &ping ? 1 : 3;
            break;
        case 1:
        case 4:
            t->pc = t->pc == 1 ? 2 : 0;
            if (chan_send(out, t, &t->gp->parker, &t->seats[0]) == CHAN_PARKED) return STEP_PARK;
            break;
        case 2:
        case 3:
            t->pc = t->pc == 2 ? 0 : 4;
            if (chan_recv(in, &t->val, &t->gp->parker, &t->seats[0]) == CHAN_PARKED) return STEP_PARK;
            break;
        }
}

static void two_gs_wake_each_other_for_ever(void) {
    for (uint32_t policy = 0; policy < POLICIES; policy++)
        for (uint32_t procs = 1; procs <= 4; procs *= 2)
            for (int cap = 0; cap < 2; cap++) {
                CHECK(chan_init(&ping, (uint32_t)cap) && chan_init(&pong, (uint32_t)cap));
                host_spin = cap;
                begin(procs, policy);
                host_go(step_ping, scaled(4000), &ping);
                host_go(step_ping, scaled(4000), &pong);
                host_stop();
                chan_free(&ping);
                chan_free(&pong);
            }
    host_spin = true;
}

/* The same, but the two start on different M's: the first one's M blocks when the second
 * starts. With one P they take turns by tokens. */
static enum step step_ping_far(task *t, m *mp) {
    if (t->nsteps == 1) task_block_declared(mp, 5 * MILLISECOND);
    return step_ping(t, mp);
}

static void two_gs_of_two_ms_wake_each_other_for_ever(void) {
    int far = 0;
    for (uint32_t policy = 0; policy < POLICIES; policy++)
        for (uint32_t procs = 1; procs <= 4; procs *= 2)
            for (int cap = 0; cap < 2; cap++) {
                CHECK(chan_init(&ping, (uint32_t)cap) && chan_init(&pong, (uint32_t)cap));
                host_spin = cap;
                begin(procs, policy);
                task *one = host_go(step_ping_far, scaled(1500), &ping);
                task *two = host_go(step_ping_far, scaled(1500), &pong);
                while (!load_seq(&one->ended) || !load_seq(&two->ended)) pause_ns(MILLISECOND);
                far += one->home != two->home;
                host_stop();
                chan_free(&ping);
                chan_free(&pong);
            }
    CHECK(far > 0);
    host_spin = true;
}

/* Each is the only one: nothing else would wake an M for it. */
static void a_plain_thread_starts_gs_one_by_one(void) {
    for (uint32_t procs = 1; procs <= 4; procs *= 2) {
        begin(procs, POLICY_GO);
        for (int64_t i = 0; i < scaled(3000); i++) {
            task *t = host_go(step_count, 0, NULL);
            while (!load_seq(&t->ended)) cpu_relax();
            if (i % 4 == 0) pause_ns(30 * MICROSECOND);
        }
        host_stop();
    }
}

/* Who stops spinning just now may be the only one that the submitters relied on: it has to wake
 * another for what it leaves. Both g's run at once or never end. */
static enum step step_meet(task *t, m *mp) {
    (void)t, (void)mp;
    uint64_t all = (atomic_fetch_add(&done, 1) | 1) + 1;
    while (load_seq(&done) < all) cpu_relax();
    return STEP_END;
}

static void a_spinner_that_gives_up_leaves_nothing_behind(void) {
    uint64_t rand = seed(7);
    for (uint32_t procs = 2; procs <= 3; procs++) {
        begin(procs, POLICY_GO);
        for (int64_t i = 0; i < scaled(200); i++) {
            task *warm = host_go(step_yields, 0, NULL);
            while (!load_seq(&warm->ended)) pause_ns(MICROSECOND);
            for (int64_t end = nanotime() + rand_next(&rand) % (60 * MICROSECOND); nanotime() < end;)
                cpu_relax();
            task *a = host_go(step_meet, 0, NULL), *b = host_go(step_meet, 0, NULL);
            while (!load_seq(&a->ended) || !load_seq(&b->ended)) pause_ns(10 * MICROSECOND);
        }
        host_stop();
    }
}

/* A g that makes another and never lets go of its own P: an idle one must take it,
 * and the spinning of locked M's, which don't, must not keep others asleep. */
static enum step step_wait_for_child(task *t, m *mp) {
    if (t->n-- == 0) return STEP_END;
    (void)mp;
    uint64_t before = load_seq(&done);
    host_go(step_count, 0, NULL);
    while (load_seq(&done) == before) cpu_relax();
    return STEP_YIELD;
}

static enum step step_locked_sleeps(task *t, m *mp) {
    if (t->pc++ == 0) task_lock_m(mp, 1);
    if (load_seq(&flag)) {
        task_lock_m(mp, -1);
        return STEP_END;
    }
    task_sleep(t, rand_next(&t->rand) % (50 * MICROSECOND));
    return STEP_PARK;
}

static void an_idle_p_takes_what_a_hog_makes(void) {
    for (uint32_t procs = 2; procs <= 4; procs *= 2)
        for (uint32_t policy = 0; policy < POLICIES; policy++) {
            begin(procs, policy);
            for (uint32_t i = 0; i < procs - 1; i++) host_go(step_locked_sleeps, 0, NULL);
            task *t = host_go(step_wait_for_child, scaled(200), NULL);
            while (!load_seq(&t->ended)) pause_ns(MILLISECOND);
            store_seq(&flag, true);
            host_stop();
        }
}

/* A plain thread at the other end: wake-ups of an M that may be asleep in netpoll. */
static void thread_pong(int index) {
    static _Thread_local parker k;
    static _Thread_local waiter w;
    (void)index;
    void *v;
    for (int64_t i = 0; i < scaled(5000); i++) {
        if (chan_recv(&ping, &v, &k, &w) == CHAN_PARKED) note_sleep(&k.note, 0);
        if (i % 8 == 0) pause_ns(50 * MICROSECOND); /* long enough for the M to sleep */
        if (chan_send(&pong, v, &k, &w) == CHAN_PARKED) note_sleep(&k.note, 0);
    }
}

static void a_plain_thread_wakes_a_g_for_ever(void) {
    for (uint32_t procs = 1; procs <= 2; procs++) {
        CHECK(chan_init(&ping, 0) && chan_init(&pong, 0));
        begin(procs, POLICY_GO);
        host_go(step_ping, scaled(5000), &ping);
        threads(1, thread_pong);
        host_stop();
        chan_free(&ping);
        chan_free(&pong);
    }
}

/* Two g's pass a byte to and fro through a pair of sockets: n times each. */
static enum step step_pass_on(task *t, m *mp) {
    (void)mp;
    conn *e = t->arg;
    for (char byte = 'x';;) {
        if (t->pc == 0) {
            if (t->n-- == 0) return STEP_END;
            CHECK(write(e->fd, &byte, 1) == 1);
            t->pc = 1;
        }
        uint64_t state = netpoll_state(e->d, POLL_READ);
        if (netpoll_ready(state)) {
            if (read(e->fd, &byte, 1) == 1) {
                t->pc = 0;
                continue;
            }
            CHECK(errno == EAGAIN);
            netpoll_drained(e->d, POLL_READ, state);
        }
        if (netpoll_wait(e->d, POLL_READ, state, &t->gp->parker, &t->gp->waiter) == POLL_PARK)
            return STEP_PARK;
    }
}

static void pass_on(conn ends[2], int64_t rounds, step_fn step) {
    host_connect(ends);
    for (int i = 0; i < 2; i++) host_go(step, rounds, &ends[i]);
}

/* Its M is blocked until another one has run a g to its end. */
static enum step step_block_until_done(task *t, m *mp) {
    (void)t;
    S.ops.detach(mp);
    store_seq(&flag, true);
    while (load_seq(&done) == 0) pause_ns(MILLISECOND);
    S.ops.attach(mp);
    atomic_fetch_add(&done, 1);
    return STEP_END;
}

/* Two M's and one P: the one that has no P to hope for doesn't sit in netpoll, where it would
 * hear of all events first and wake the other one's M for each. */
static void an_m_without_hope_of_a_p_leaves_events_to_the_other(void) {
    begin(1, POLICY_GO);
    host_go(step_block_until_done, 0, NULL);
    while (!load_seq(&flag)) pause_ns(MILLISECOND);
    host_go(step_count, 0, NULL);
    while (load_seq(&done) < 2) pause_ns(MILLISECOND);
    CHECK(load_seq(&S.nm) >= 2);
    conn ends[2];
    int64_t rounds = scaled(20000);
    pass_on(ends, rounds, step_pass_on);
    while (sched_live()) pause_ns(MILLISECOND);
    uint64_t in_passing = load_seq(&S.allp[0]->stat.netpoll_wakes);
    host_stop();
    host_disconnect(ends);
    fprintf(stderr, "  %llu events of %lld bytes in passing\n", (unsigned long long)in_passing,
            (long long)(2 * rounds));
    CHECK(in_passing > (uint64_t)rounds / 2);
}

/* t->n naps, and a long one, on an M that starts nothing else. */
static enum step step_locked_naps(task *t, m *mp) {
    if (t->nsteps == 1) task_lock_m(mp, 1);
    if (t->n < 0) {
        task_lock_m(mp, -1);
        return STEP_END;
    }
    if (t->n == 0) atomic_fetch_add(&done, 1);
    task_sleep(t, t->n-- ? 100 * MICROSECOND : SECOND);
    return STEP_PARK;
}

static _Atomic uint32_t passers;

static enum step step_pass_on_then_block(task *t, m *mp) {
    enum step r = step_pass_on(t, mp);
    if (r == STEP_END && atomic_fetch_sub(&passers, 1) == 1) task_block_undeclared(mp, SECOND);
    return r;
}

/* ... but once the P is idle because the other one blocks, somebody does: for the timer here,
 * nobody waits for events. */
static void an_m_that_blocks_leaves_somebody_polling(void) {
    begin(1, POLICY_GO);
    host_go(step_locked_naps, 20, NULL);
    store_seq(&passers, 2);
    conn ends[2];
    int64_t rounds = scaled(5000);                                         /* over before the long nap is */
    pass_on(ends, rounds < 5000 ? rounds : 5000, step_pass_on_then_block); /* others doze off, no P idle */
    while (load_seq(&passers) || load_seq(&done) < 1 || !load_seq(&S.nnop) || !load_seq(&S.poller)) {
        if (!load_seq(&passers)) CHECK(sched_live() == 2); /* it hasn't come back from its call yet */
        pause_ns(MILLISECOND);
    }
    host_stop();
    host_disconnect(ends);
}

/* The waker is still inside its wake-up when the g, its M and the scheduler are gone. */
static void a_waker_may_outlive_the_run(void) {
    for (int64_t i = 0; i < scaled(400); i++) {
        CHECK(chan_init(&ping, 0) && chan_init(&pong, 0));
        begin(1, POLICY_GO);
        host_go(step_ping, 1, &ping);
        pthread_t waker;
        extern void *wake_once(void *);
        CHECK(pthread_create(&waker, NULL, wake_once, NULL) == 0);
        host_stop();
        pthread_join(waker, NULL);
        chan_free(&ping);
        chan_free(&pong);
    }
}

void *wake_once(void *arg) {
    static _Thread_local parker k;
    static _Thread_local waiter w;
    void *v;
    if (chan_recv(&ping, &v, &k, &w) == CHAN_PARKED) note_sleep(&k.note, 0);
    if (chan_send(&pong, v, &k, &w) == CHAN_PARKED) note_sleep(&k.note, 0);
    return arg;
}

/* ---------------------------------------------------------------- GOMAXPROCS */

static void procs_go_up_and_down_under_load(void) {
    for (uint32_t policy = 0; policy < POLICIES; policy++) {
        begin(4, policy);
        for (int i = 0; i < 16; i++) host_go(step_yields, scaled(20000), NULL);
        for (int i = 0; i < 16; i++) host_go(step_on_time, 20, NULL);
        for (int i = 0; i < 8; i++) host_go(step_spawn, 10, NULL);
        for (int i = 0; i < 40; i++) {
            sched_set_procs(1 + (uint32_t)(i * 7) % 5);
            for (int k = 0; k < 20; k++) host_go(step_count, 0, NULL);
            pause_ns(500 * MICROSECOND);
        }
        host_stop();
        CHECK_EQ(done, 8 * 10 * 700 + 800);
    }
}

/* The P of an M that blocks is retired: what waits in its queue must reach the others. */
static enum step step_fill_and_block(task *t, m *mp) {
    if (t->pc++) return STEP_END;
    for (int i = 0; i < 100; i++) host_go(step_count, 0, NULL);
    sched_syscall(mp);
    while (!load_seq(&flag)) pause_ns(MILLISECOND);
    sched_enter(mp);
    sched_leave(mp);
    return STEP_YIELD;
}

static void retired_ps_give_their_gs_away(void) {
    for (uint32_t policy = 0; policy < POLICIES; policy++) {
        begin(4, policy);
        for (int i = 0; i < 3; i++) host_go(step_hog, 20 * SECOND, NULL); /* nobody steals */
        pause_ns(2 * MILLISECOND);
        task *t = host_go(step_fill_and_block, 0, NULL);
        while (!load_seq(&t->home)) pause_ns(MILLISECOND);
        sched_set_procs(1);
        while (load_seq(&done) != 100) pause_ns(MILLISECOND);
        store_seq(&flag, true);
        host_stop();
    }
}

/* ---------------------------------------------------------------- the host is told */

static enum step step_wait_for_nothing(task *t, m *mp) {
    (void)mp;
    if (t->pc++) return STEP_END;
    wait_begin(&t->gp->parker);
    return STEP_PARK;
}

static void a_deadlock_is_told(void) {
    for (uint32_t procs = 1; procs <= 4; procs *= 2) {
        begin(procs, POLICY_GO);
        store_seq(&host_idles, 0);
        task *t[10];
        for (int i = 0; i < 10; i++) t[i] = host_go(step_wait_for_nothing, 0, NULL);
        while (!(load_seq(&host_idles) && sched_deadlocked())) pause_ns(MILLISECOND);
        for (int i = 0; i < 10; i++) CHECK(task_cancel(t[i]));
        host_stop();
    }
}

/* Seen once, under ThreadSanitizer: the last g had parked for good while the thread that made it was
 * still inside sched_go. Its M saw a visitor, and nobody looked again. */
static void a_deadlock_is_told_by_a_plain_thread_that_leaves_last(void) {
    begin(1, POLICY_GO);
    store_seq(&host_idles, 0);
    visit();
    task *t = host_go(step_wait_for_nothing, 0, NULL);
    while (g_status(t->gp) != G_WAITING || !sched_all_idle()) sched_yield();
    while (S.ops.state(load_relaxed(&t->gp->m)) != HOST_DETACHED) sched_yield();
    CHECK_EQ(load_seq(&host_idles), 0);
    visit_end();
    CHECK(load_seq(&host_idles) >= 1);
    CHECK(task_cancel(t));
    host_stop();
}

static timer in_vain;
static parker *wakes_nobody(timer *t) {
    (void)t;
    return NULL;
}

static enum step step_wait_beside_a_timer(task *t, m *mp) {
    if (t->pc == 0) {
        int64_t when = nanotime() + 20 * MILLISECOND;
        CHECK(timers_add_fire(&load_relaxed(&mp->p)->timers, &in_vain, when, wakes_nobody));
        sched_timer_added(when);
    }
    return step_wait_for_nothing(t, mp);
}

/* As the g parks, the timer might still wake one. It fires where no P is held, in the poller or in
 * sysmon, and no g runs after it whose M would look. */
static void a_deadlock_is_told_after_a_timer_that_woke_nobody(void) {
    for (uint32_t procs = 1; procs <= 4; procs *= 2) {
        begin(procs, POLICY_GO);
        store_seq(&host_idles, 0);
        task *t = host_go(step_wait_beside_a_timer, 0, NULL);
        while (!(load_seq(&host_idles) && sched_deadlocked())) pause_ns(MILLISECOND);
        CHECK(task_cancel(t));
        host_stop();
    }
}

/* No moment of a sleeper's wake-up may look like a deadlock. */
static _Atomic bool watching;
static void watch_deadlock(int index) {
    if (index) {
        for (int i = 0; i < 4; i++) host_go(step_on_time, scaled(1000), NULL);
        while (sched_live()) pause_ns(MILLISECOND);
        store_seq(&watching, false);
    } else
        while (load_seq(&watching)) CHECK(!sched_deadlocked());
}

static _Atomic bool looking;

static void *look_all_the_time(void *arg) {
    while (load_seq(&looking)) {
        if (!sched_look()) continue;
        uint32_t nm = load_seq(&S.nm);
        for (uint32_t i = 0; i < nm && i < MAX_M; i++) {
            m *mp = load_acquire(&S.allm[i]);
            p *pp = mp ? load_acquire(&mp->p) : NULL;
            if (pp) CHECK(pp->id < 4);
        }
        sched_look_end();
    }
    return arg;
}

/* Under the sanitizers: no M or P is used after it was freed. */
static void stopping_waits_for_who_looks(void) {
    pthread_t looker;
    store_seq(&looking, true);
    CHECK(!sched_look()); /* nothing runs */
    CHECK(pthread_create(&looker, NULL, look_all_the_time, NULL) == 0);
    start_and_stop_again_and_again();
    store_seq(&looking, false);
    pthread_join(looker, NULL);
}

static void a_wakeup_under_way_is_no_deadlock(void) {
    for (uint32_t procs = 1; procs <= 2; procs++) {
        begin(procs, POLICY_GO);
        store_seq(&watching, true);
        threads(2, watch_deadlock);
        host_stop();
    }
}

static enum step waits_once(task *t, m *mp) {
    (void)mp;
    if (t->pc++) return STEP_END;
    wait_begin(&t->gp->parker);
    return STEP_PARK;
}

/* Somebody puts a g into its M's queue and doesn't wake the M, or its token is forgotten. */
static void a_lost_wakeup_is_made_up_for_and_told(void) {
    CHECK(!sched_left_told()[0]);
    host_left_behind = true;
    for (int token = 0; token < 2; token++) {
        netpoll(1); /* a break that the run before left unread would make the M look once more */
        begin(2, POLICY_GO);
        g *gp = host_go(waits_once, 0, NULL)->gp;
        while (g_status(gp) != G_WAITING || !sched_all_idle()) sched_yield();
        m *mp = load_relaxed(&gp->m);
        while (S.ops.state(mp) != HOST_DETACHED) sched_yield(); /* it has looked at its queue again */
        CHECK(parker_claim_any(&gp->parker, WAKE_OK));
        store_relaxed(&gp->ready_at, nanotime());
        g_move(gp, G_WAITING, G_RUNNABLE);
        int64_t since = nanotime();
        boundq_push(&mp->bound, gp);
        if (token) {
            mutex_lock(&S.lock);
            mp->state = M_WANTP;
            mutex_unlock(&S.lock);
        }
        sysmon_wake(); /* it may have seen, before the push, that nothing was left */
        host_stop();
        CHECK(nanotime() - since >= 100 * MILLISECOND); /* not as long as somebody may be about to */
    }
    CHECK(strstr(sched_left_told(), "bound 1; 2 P's idle"));
}

int main(void) {
    RUN(every_fresh_g_runs_once);
    RUN(overflowing_rings_lose_nothing);
    RUN(start_and_stop_again_and_again);
    RUN(yielding_gs_stay_on_their_ms);
    RUN(who_yields_alone_lets_fresh_ones_run);
    RUN(bound_gs_dont_starve_fresh_ones);
    RUN(fresh_gs_dont_starve_bound_ones);
    RUN(locked_m_doesnt_starve_fresh_gs);
    RUN(locked_m_serves_tokens);
    RUN(tokens_share_one_p_among_ms);
    RUN(p_is_handed_off_while_an_m_blocks_declared);
    RUN(p_is_handed_off_while_an_m_blocks_undeclared);
    RUN(declaring_a_call_keeps_in_mind_that_the_p_is_gone);
    RUN(hogs_are_preempted);
    RUN(sleeping_gs_wake_on_time);
    RUN(two_gs_wake_each_other_for_ever);
    RUN(two_gs_of_two_ms_wake_each_other_for_ever);
    RUN(a_plain_thread_starts_gs_one_by_one);
    RUN(a_spinner_that_gives_up_leaves_nothing_behind);
    RUN(an_idle_p_takes_what_a_hog_makes);
    RUN(a_plain_thread_wakes_a_g_for_ever);
    RUN(an_m_without_hope_of_a_p_leaves_events_to_the_other);
    RUN(an_m_that_blocks_leaves_somebody_polling);
    RUN(a_waker_may_outlive_the_run);
    RUN(procs_go_up_and_down_under_load);
    RUN(retired_ps_give_their_gs_away);
    RUN(a_deadlock_is_told);
    RUN(a_deadlock_is_told_by_a_plain_thread_that_leaves_last);
    RUN(a_deadlock_is_told_after_a_timer_that_woke_nobody);
    RUN(a_wakeup_under_way_is_no_deadlock);
    RUN(stopping_waits_for_who_looks);
    RUN(a_lost_wakeup_is_made_up_for_and_told); /* last: from here on it is told */
    return 0;
}
