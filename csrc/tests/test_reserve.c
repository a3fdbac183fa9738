/* Reserved P's and the latency class: the rules, one test each, then all at once. Who runs
 * where is checked by the host at each step. */
#include "host.h"

static _Atomic uint64_t done, met;
static _Atomic bool flag;

static void begin(uint32_t procs, uint32_t reserve, uint32_t policy) {
    store_seq(&done, 0);
    store_seq(&met, 0);
    store_seq(&flag, false);
    host_start(procs, policy);
    sched_set_reserve(reserve);
    host_reserve_stays = true;
}

static void end(void) {
    host_stop();
    host_reserve_stays = false;
}

static void until(_Atomic uint64_t *count, uint64_t n) {
    while (load_seq(count) < n) pause_ns(100 * MICROSECOND);
}

static enum step step_count(task *t, m *mp) {
    (void)mp;
    if (t->n-- > 0) return STEP_YIELD;
    atomic_fetch_add(&done, 1);
    return STEP_END;
}

static enum step step_set_flag(task *t, m *mp) {
    (void)t, (void)mp;
    store_seq(&flag, true);
    return STEP_END;
}

/* Never yields, whoever asks. */
static enum step step_deaf_hog(task *t, m *mp) {
    (void)t, (void)mp;
    atomic_fetch_add(&met, 1);
    while (!load_seq(&flag)) cpu_relax();
    return STEP_END;
}

static enum step step_yield_until_flag(task *t, m *mp) {
    (void)t, (void)mp;
    return load_seq(&flag) ? STEP_END : STEP_YIELD;
}

static enum step step_spawn_latency(task *t, m *mp) {
    (void)mp;
    if (t->n-- == 0) return STEP_END;
    host_go_latency(step_count, t->n % 3, NULL);
    return STEP_YIELD;
}

static enum step step_sleeps(task *t, m *mp) {
    (void)mp;
    if (t->n-- == 0) {
        atomic_fetch_add(&done, 1);
        return STEP_END;
    }
    task_sleep(t, rand_next(&t->rand) % (200 * MICROSECOND));
    return STEP_PARK;
}

static void hogs_on_all_open_ps_are_never_ahead(void) {
    for (uint32_t policy = 0; policy < POLICIES; policy++)
        for (uint32_t procs = 2; procs <= 3; procs++) {
            begin(procs, 1, policy);
            for (uint32_t i = 0; i < procs + 1; i++) host_go(step_deaf_hog, 0, NULL);
            until(&met, procs - 1);
            for (int i = 0; i < 200; i++) host_go_latency(step_count, i % 3, NULL);
            host_go_latency(step_spawn_latency, 300, NULL);
            for (int i = 0; i < 20; i++) host_go_latency(step_sleeps, 20, NULL);
            until(&done, 520);
            CHECK_EQ(met, procs - 1); /* the reserved P started no hog */
            store_seq(&flag, true);
            end();
        }
}

/* All at once on a P each: the reserved one and the open ones. */
static enum step step_meet(task *t, m *mp) {
    (void)mp;
    atomic_fetch_add(&met, 1);
    while (load_seq(&met) < (uint64_t)t->n) cpu_relax();
    return STEP_END;
}

static void latency_gs_use_any_idle_p(void) {
    for (uint32_t procs = 2; procs <= 4; procs++) {
        begin(procs, 1, POLICY_GO);
        for (uint32_t i = 0; i < procs; i++) host_go_latency(step_meet, procs, NULL);
        end();
    }
}

static void a_busy_open_p_is_lent(void) {
    begin(2, 1, POLICY_GO);
    for (int i = 0; i < 5; i++) host_go(step_yield_until_flag, 0, NULL);
    pause_ns(5 * MILLISECOND);
    for (int i = 0; i < 2; i++) host_go_latency(step_meet, 2, NULL);
    until(&met, 2);
    /* And given back: nobody else would let the ordinary ones see the flag. */
    store_seq(&flag, true);
    end();
}

static enum step step_spawn_latency_until_flag(task *t, m *mp) {
    (void)t, (void)mp;
    if (!load_seq(&flag)) host_go_latency(step_spawn_latency_until_flag, 0, NULL);
    return STEP_END;
}

static enum step step_latency_yields(task *t, m *mp) { return step_yield_until_flag(t, mp); }

static void a_flood_of_latency_gs_doesnt_starve_the_others(void) {
    for (uint32_t procs = 2; procs <= 3; procs++) {
        begin(procs, 1, POLICY_GO);
        for (int i = 0; i < 300; i++) host_go_latency(step_spawn_latency_until_flag, 0, NULL);
        for (int i = 0; i < 8; i++) host_go_latency(step_latency_yields, 0, NULL);
        pause_ns(5 * MILLISECOND);
        host_go(step_set_flag, 0, NULL);
        end();
    }
}

static void bound_latency_gs_dont_starve_fresh_ones(void) {
    begin(2, 1, POLICY_GO);
    host_go(step_deaf_hog, 0, NULL);
    until(&met, 1);
    for (int i = 0; i < 3; i++) host_go_latency(step_yield_until_flag, 0, NULL);
    pause_ns(5 * MILLISECOND);
    host_go_latency(step_set_flag, 0, NULL);
    end();
}

/* Ordinary children of a latency g: on open P's, by ordinary M's. */
static enum step step_spawn_ordinary(task *t, m *mp) {
    (void)mp;
    if (t->n-- == 0) return STEP_END;
    for (int i = 0; i < 300; i++) host_go(step_count, 0, NULL);
    return STEP_YIELD;
}

static void ordinary_children_of_latency_gs_run_on_open_ps(void) {
    for (uint32_t policy = 0; policy < POLICIES; policy++) {
        begin(2, 1, policy);
        for (int i = 0; i < 2; i++) host_go_latency(step_spawn_ordinary, 5, NULL);
        end();
        CHECK_EQ(done, 3000);
    }
}

static enum step step_block(task *t, m *mp) {
    atomic_fetch_add(&met, 1);
    if (t->n)
        task_block_declared(mp, SECOND);
    else
        task_block_undeclared(mp, SECOND);
    return STEP_END;
}

static void a_blocked_latency_m_hands_its_reserved_p_on(void) {
    for (int declared = 0; declared < 2; declared++) {
        begin(2, 1, POLICY_GO);
        host_go(step_deaf_hog, 0, NULL);
        until(&met, 1);
        host_go_latency(step_block, declared, NULL);
        until(&met, 2);
        for (int i = 0; i < 10; i++) host_go_latency(step_count, 1, NULL);
        until(&done, 10);
        CHECK_EQ(load_seq(&S.nnop), 1);
        store_seq(&flag, true);
        end();
    }
}

/* Each is the only one: nothing else would wake an M for it. */
/* One whose function blocks starts on a solo M of its class, which may use the reserved P. */
static _Atomic(m *) solo_m;
static enum step step_solo(task *t, m *mp) {
    (void)t;
    store_seq(&solo_m, mp);
    task_block_undeclared(mp, 30 * MILLISECOND);
    atomic_fetch_add(&done, 1);
    return STEP_END;
}

static void a_latency_g_that_blocks_has_an_m_of_its_own_and_class(void) {
    begin(2, 1, POLICY_GO);
    host_go(step_deaf_hog, 0, NULL);
    until(&met, 1);
    host_go_latency_solo(step_solo, 0, NULL);
    until(&done, 1);
    CHECK(load_seq(&solo_m)->solo && load_seq(&solo_m)->latency);
    store_seq(&flag, true);
    end();
}

static void plain_threads_start_latency_gs_one_by_one(void) {
    for (uint32_t procs = 2; procs <= 4; procs++)
        for (int hog = 0; hog < 2; hog++) {
            begin(procs, 1, POLICY_GO);
            if (hog)
                for (uint32_t i = 0; i < procs - 1; i++) host_go(step_deaf_hog, 0, NULL);
            for (int64_t i = 0; i < scaled(2000); i++) {
                task *t = host_go_latency(step_count, 0, NULL);
                while (!load_seq(&t->ended)) cpu_relax();
                if (i % 4 == 0) pause_ns(30 * MICROSECOND);
            }
            store_seq(&flag, true);
            end();
        }
}

/* One of each class wake each other; nothing else is going on. */
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

static void one_of_each_class_wake_each_other_for_ever(void) {
    for (uint32_t procs = 2; procs <= 4; procs++)
        for (int cap = 0; cap < 2; cap++) {
            CHECK(chan_init(&ping, (uint32_t)cap) && chan_init(&pong, (uint32_t)cap));
            host_spin = cap;
            begin(procs, 1, POLICY_GO);
            host_go(step_ping, scaled(3000), &ping);
            task *t = host_go_latency(step_ping, scaled(3000), &pong);
            while (!load_seq(&t->ended)) pause_ns(MILLISECOND);
            end();
            chan_free(&ping);
            chan_free(&pong);
        }
    host_spin = true;
}

/* A hog on a P that becomes reserved is asked to leave it. */
static enum step step_hog(task *t, m *mp) {
    (void)t;
    atomic_fetch_add(&met, 1);
    while (!load_seq(&flag))
        if (task_preempted(mp)) return STEP_YIELD;
    return STEP_END;
}

static void a_p_that_becomes_reserved_is_left(void) {
    begin(2, 0, POLICY_GO);
    for (int i = 0; i < 4; i++) host_go(step_hog, 0, NULL);
    until(&met, 2);
    host_reserve_stays = false;
    sched_set_reserve(1);
    for (int i = 0; i < 50; i++) host_go_latency(step_count, 0, NULL);
    until(&done, 50);
    /* And open again: what is left of the class runs on. */
    host_go_latency(step_yield_until_flag, 0, NULL);
    sched_set_reserve(0);
    for (int i = 0; i < 50; i++) host_go_latency(step_count, 0, NULL);
    until(&done, 100);
    store_seq(&flag, true);
    end();
}

static void an_open_p_always_stays(void) {
    begin(3, 7, POLICY_GO);
    CHECK_EQ(S.reserve, 2);
    CHECK_EQ(sched_set_procs(1), 3);
    CHECK_EQ(S.procs, 3);
    CHECK_EQ(sched_set_reserve(1), 2);
    CHECK_EQ(sched_set_procs(1), 3);
    CHECK_EQ(S.procs, 2);
    for (int i = 0; i < 10; i++) host_go(step_count, 0, NULL);
    end();
}

static enum step step_wait_for_nothing(task *t, m *mp) {
    (void)mp;
    if (t->pc++) return STEP_END;
    wait_begin(&t->gp->parker);
    return STEP_PARK;
}

static void a_deadlock_of_both_classes_is_told(void) {
    for (uint32_t procs = 2; procs <= 4; procs++) {
        begin(procs, 1, POLICY_GO);
        store_seq(&host_idles, 0);
        task *t[10];
        for (int i = 0; i < 10; i++)
            t[i] = (i & 1 ? host_go : host_go_latency)(step_wait_for_nothing, 0, NULL);
        while (!(load_seq(&host_idles) && sched_deadlocked())) pause_ns(MILLISECOND);
        for (int i = 0; i < 10; i++) CHECK(task_cancel(t[i]));
        end();
    }
}

static _Atomic bool watching;
static void watch_deadlock(int index) {
    if (index) {
        for (int i = 0; i < 4; i++) (i & 1 ? host_go : host_go_latency)(step_sleeps, scaled(1000), NULL);
        while (sched_live()) pause_ns(MILLISECOND);
        store_seq(&watching, false);
    } else
        while (load_seq(&watching)) CHECK(!sched_deadlocked());
}

static void a_wakeup_under_way_is_no_deadlock(void) {
    begin(2, 1, POLICY_GO);
    store_seq(&watching, true);
    threads(2, watch_deadlock);
    end();
}

/* What the guard asks for: slices that end early. */
static void a_short_slice_is_kept(void) {
    begin(1, 0, POLICY_GO);
    store_relaxed(&S.slice_ns, 3600 * SECOND);
    for (int i = 0; i < 2; i++) host_go(step_hog, 0, NULL);
    until(&met, 1);
    pause_ns(30 * MILLISECOND);
    CHECK_EQ(met, 1);
    store_relaxed(&S.preempt_now, true); /* once, whatever the slice */
    sysmon_wake();
    until(&met, 2);
    pause_ns(30 * MILLISECOND);
    CHECK_EQ(met, 2);
    store_relaxed(&S.slice_ns, MILLISECOND);
    sysmon_wake();
    until(&met, 6);
    store_seq(&flag, true);
    end();
}

/* ---------------------------------------------------------------- all at once */

static _Atomic uint64_t made;

static enum step step_mixed(task *t, m *mp) {
    if (t->pc++ == 0) atomic_fetch_add(&made, 1);
    if (load_seq(&flag)) {
        if (t->n) {
            t->n = 0;
            task_lock_m(mp, -1);
        }
        atomic_fetch_add(&done, 1);
        return STEP_END;
    }
    uint32_t r = rand_next(&t->rand);
    switch (r % 12) {
    case 0:
    case 1: task_sleep(t, (r >> 8) % MILLISECOND); return STEP_PARK;
    case 2: host_go_latency(step_count, r >> 8 & 3, NULL); return STEP_YIELD;
    case 3: host_go(step_count, r >> 8 & 3, NULL); return STEP_YIELD;
    case 4:
        if ((r & 0x700) == 0) task_block_declared(mp, (r >> 12) % MILLISECOND);
        return STEP_YIELD;
    case 5:
        if ((r & 0x700) == 0) task_block_undeclared(mp, (r >> 12) % (2 * MILLISECOND));
        return STEP_YIELD;
    case 6:
        if ((r & 0xf00) == 0)
            for (int64_t stop = nanotime() + 30 * MILLISECOND; nanotime() < stop && !task_preempted(mp);)
                cpu_relax();
        return STEP_YIELD;
    case 7: /* its M is its alone for a while */
        if (!t->n && (r & 0xf00) == 0) {
            t->n = 1;
            task_lock_m(mp, 1);
        } else if (t->n) {
            t->n = 0;
            task_lock_m(mp, -1);
        }
        return STEP_YIELD;
    case 8:
        if ((r & 0x1f00) == 0)
            (r & 0x2000 ? host_go_latency_solo : host_go_solo)(step_count, r >> 14 & 7, NULL);
        return STEP_YIELD;
    default: return STEP_YIELD;
    }
}

static bool changing;

static void mix(int index) {
    uint64_t rand = seed(100 + index);
    int64_t stop = nanotime() + scaled(700 * MILLISECOND);
    while (nanotime() < stop) {
        uint32_t r = rand_next(&rand);
        if (index == 0 && changing) {
            if (r & 1)
                sched_set_procs(1 + (r >> 4) % 5);
            else
                sched_set_reserve((r >> 4) % 4);
        } else
            (r & 1 ? host_go : host_go_latency)(step_count, r >> 4 & 7, NULL);
        pause_ns((r >> 8) % (300 * MICROSECOND));
    }
}

static void mixed(uint32_t procs, uint32_t reserve) {
    for (uint32_t policy = 0; policy < POLICIES; policy++) {
        store_seq(&made, 0);
        begin(procs, reserve, policy);
        if (changing) host_reserve_stays = false;
        for (int i = 0; i < 40; i++) (i & 1 ? host_go : host_go_latency)(step_mixed, 0, NULL);
        threads(3, mix);
        store_seq(&flag, true);
        end();
        CHECK_EQ(made, 40);
    }
    fprintf(stderr, "  %u P's, %u reserved: steps=%llu preempts=%llu\n", procs, reserve,
            (unsigned long long)host_steps, (unsigned long long)host_preempts);
}

static void mixed_with_one_of_two_reserved(void) { mixed(2, 1); }
static void mixed_with_two_of_four_reserved(void) { mixed(4, 2); }
static void mixed_while_procs_and_reserve_change(void) {
    changing = true;
    mixed(3, 1);
    changing = false;
}

int main(void) {
    RUN(hogs_on_all_open_ps_are_never_ahead);
    RUN(latency_gs_use_any_idle_p);
    RUN(a_busy_open_p_is_lent);
    RUN(a_flood_of_latency_gs_doesnt_starve_the_others);
    RUN(bound_latency_gs_dont_starve_fresh_ones);
    RUN(ordinary_children_of_latency_gs_run_on_open_ps);
    RUN(a_blocked_latency_m_hands_its_reserved_p_on);
    RUN(a_latency_g_that_blocks_has_an_m_of_its_own_and_class);
    RUN(plain_threads_start_latency_gs_one_by_one);
    RUN(one_of_each_class_wake_each_other_for_ever);
    RUN(a_p_that_becomes_reserved_is_left);
    RUN(an_open_p_always_stays);
    RUN(a_deadlock_of_both_classes_is_told);
    RUN(a_wakeup_under_way_is_no_deadlock);
    RUN(a_short_slice_is_kept);
    RUN(mixed_with_one_of_two_reserved);
    RUN(mixed_with_two_of_four_reserved);
    RUN(mixed_while_procs_and_reserve_change);
    return 0;
}
