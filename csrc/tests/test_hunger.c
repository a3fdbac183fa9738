/* What the guard is told, in situations that the test makes. */
#include "../api.h"
#include "host.h"

static _Atomic bool flag, running;

static enum step step_nothing(task *t, m *mp) {
    (void)t, (void)mp;
    return STEP_END;
}

static enum step step_deaf_hog(task *t, m *mp) {
    (void)t, (void)mp;
    store_seq(&running, true);
    while (!load_seq(&flag)) cpu_relax();
    return STEP_END;
}

static void starved_gs_and_the_hog_are_found(void) {
    static gmpy_hunger h;
    store_seq(&flag, false), store_seq(&running, false);
    h = (gmpy_hunger){.starving_ns = 20 * MILLISECOND};
    host_start(1, POLICY_GO);
    gmpy_hunger_look(&h);
    int64_t began = nanotime();
    host_go(step_deaf_hog, 0, NULL);
    while (!load_seq(&running)) pause_ns(100 * MICROSECOND);
    task *first = host_go(step_nothing, 0, NULL);
    for (int i = 0; i < 6; i++) host_go(step_nothing, 0, NULL);
    gmpy_hunger_look(&h);
    if (nanotime() - began < h.starving_ns) CHECK_EQ(h.starved, 0);
    pause_ns(50 * MILLISECOND);
    while (load_relaxed(&S.allp[0]->stat.preempt_requests) == h.seen_requests) pause_ns(100 * MICROSECOND);
    gmpy_hunger_look(&h);
    int64_t longest = nanotime() - began;
    CHECK_EQ(h.goroutines, 8);
    CHECK_EQ(h.runnable, 7);
    CHECK_EQ(h.starved, 7);
    CHECK_EQ(h.oldest_g, first->gp->id);
    CHECK(h.oldest_ns >= 50 * MILLISECOND && h.oldest_ns <= longest);
    CHECK_EQ(h.runs, 0);
    CHECK(h.wait_mean_ns >= 43 * MILLISECOND && h.wait_mean_ns <= longest * 9 / 8);
    CHECK(h.preempt_requests > 0);
    CHECK_EQ(h.hogs, 1);
    CHECK(h.hog[0].ran_ns >= 50 * MILLISECOND && h.hog[0].ran_ns <= longest);
    store_seq(&flag, true);
    while (sched_live()) pause_ns(100 * MICROSECOND);
    gmpy_hunger_look(&h);
    CHECK_EQ(h.runs, 7);
    CHECK_EQ(h.runnable + h.starved + h.goroutines, 0);
    CHECK(h.wait_p99_ns >= 50 * MILLISECOND);
    gmpy_hunger_look(&h);
    CHECK_EQ(h.runs, 0);
    CHECK_EQ(h.wait_mean_ns, 0);
    host_stop();
}

static enum step step_yields(task *t, m *mp) {
    (void)mp;
    return t->n-- > 0 ? STEP_YIELD : STEP_END;
}

static void looks_under_load_are_whole(void) {
    static gmpy_hunger h;
    uint64_t runs = 0;
    h = (gmpy_hunger){.starving_ns = MILLISECOND};
    uint64_t before = host_steps;
    host_start(3, POLICY_GO);
    for (int i = 0; i < 30; i++) host_go(step_yields, scaled(5000), NULL);
    while (sched_live()) {
        gmpy_hunger_look(&h);
        CHECK(h.starved <= h.runnable && h.runnable <= 30 && h.hogs <= 8);
        for (uint32_t i = 1; i < h.hogs; i++) CHECK(h.hog[i - 1].ran_ns >= h.hog[i].ran_ns);
        runs += h.runs;
    }
    gmpy_hunger_look(&h);
    CHECK_EQ(runs + h.runs, host_steps - before);
    host_stop();
}

int main(void) {
    RUN(starved_gs_and_the_hog_are_found);
    RUN(looks_under_load_are_whole);
    return 0;
}
