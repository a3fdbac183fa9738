/* What the outside sees: histograms, counts of g's and M's, readers beside starts and stops. */
#include "../api.h"
#include "host.h"

/* ---------------------------------------------------------------- histograms */

static void a_bucket_holds_what_lies_between_its_bounds(void) {
    uint64_t rand = seed(0);
    for (int i = 0; i < 200000; i++) {
        uint64_t any = rand_next(&rand) | (uint64_t)rand_next(&rand) << 32;
        int64_t v = (int64_t)(any >> (1 + rand_next(&rand) % 63));
        uint32_t b = hist_bucket(v);
        CHECK(b < HIST_BUCKETS && hist_lower(b) <= v);
        CHECK(b + 1 == HIST_BUCKETS || v < hist_lower(b + 1));
    }
    for (uint32_t b = 1; b + 1 < HIST_BUCKETS; b++) {
        int64_t low = hist_lower(b), high = hist_lower(b + 1);
        CHECK(hist_bucket(low) == b && hist_bucket(high - 1) == b);
        CHECK(b < HIST_SUB || (high - low) * 8 <= low); /* 12.5 % */
    }
    CHECK_EQ(hist_bucket(-1), 0);
    CHECK_EQ(hist_bucket(INT64_MAX), HIST_BUCKETS - 1);
}

static void a_histogram_knows_count_sum_and_maximum(void) {
    static hist h;
    int64_t sum = 0;
    for (int64_t v = 1; v <= 1000; v++) {
        hist_add(&h, v * MICROSECOND);
        sum += v * MICROSECOND;
    }
    uint64_t n = 0;
    for (uint32_t b = 0; b < HIST_BUCKETS; b++) n += load_relaxed(&h.count[b]);
    CHECK_EQ(n, 1000);
    CHECK_EQ(load_relaxed(&h.sum), sum);
    CHECK_EQ(load_relaxed(&h.max), 1000 * MICROSECOND);
    hist_add(&h, -5); /* the clocks of two CPUs: the sum never falls */
    CHECK_EQ(load_relaxed(&h.sum), sum);
}

static void a_span_counts_what_goes_on_as_well(void) {
    span s = 0;
    span_begin(&s, nanotime());
    pause_ns(2 * MILLISECOND);
    int64_t seen = span_read(&s);
    CHECK(seen >= 2 * MILLISECOND);
    span_end(&s, nanotime());
    int64_t total = span_read(&s);
    CHECK(total >= seen && span_read(&s) == total);
    span_begin(&s, nanotime());
    CHECK(span_read(&s) >= total);
}

/* ---------------------------------------------------------------- counts */

enum { STRANDED = 7 };
static _Atomic uint64_t parked;
static _Atomic bool block, blocks, release;

static enum step step_wait(task *t, m *mp) {
    (void)mp;
    if (t->pc++) return STEP_END;
    task_sleep(t, 3600 * SECOND); /* until it is cancelled */
    atomic_fetch_add(&parked, 1);
    return STEP_PARK;
}

static enum step step_block(task *t, m *mp) {
    (void)t;
    if (!load_seq(&block)) return STEP_YIELD;
    store_seq(&blocks, true);
    while (!load_seq(&release)) task_block_undeclared(mp, 5 * MILLISECOND);
    return STEP_END;
}

static gmpy_stat counts(int walk) {
    gmpy_stat stat;
    gmpy_stat_read(&stat, walk);
    return stat;
}

static void stranded_gs_are_counted_by_queues_as_by_slots(void) {
    task *t[STRANDED];
    store_seq(&parked, 0), store_seq(&block, false), store_seq(&blocks, false), store_seq(&release, false);
    host_start(1, POLICY_GO);
    for (int i = 0; i < STRANDED; i++) t[i] = host_go(step_wait, 0, NULL);
    host_go(step_block, 0, NULL);
    while (load_seq(&parked) < STRANDED || !(counts(0).running == 1 && counts(0).waiting == STRANDED))
        pause_ns(100 * MICROSECOND);
    CHECK(counts(0).goroutines == STRANDED + 1 && counts(0).timers == STRANDED);
    store_seq(&block, true);
    while (!load_seq(&blocks)) pause_ns(100 * MICROSECOND);
    for (int i = 0; i < STRANDED; i++)
        while (!task_cancel(t[i])) pause_ns(100 * MICROSECOND);
    while (counts(0).stranded < STRANDED || !counts(0).blocked_threads) pause_ns(100 * MICROSECOND);
    for (int walk = 0; walk < 2; walk++) {
        gmpy_stat stat = counts(walk);
        CHECK_EQ(stat.stranded, STRANDED);
        CHECK_EQ(stat.runnable, STRANDED);
        CHECK_EQ(stat.running, 1);
        CHECK_EQ(stat.waiting, 0);
        CHECK_EQ(stat.fresh, 0);
        CHECK_EQ(stat.goroutines, STRANDED + 1);
        CHECK_EQ(stat.blocked_threads, 1);
    }
    gmpy_mstat ms[8];
    uint32_t n = gmpy_m_stats(ms, 8), blocked = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (ms[i].p >= 0 || !ms[i].bound) continue;
        CHECK(strcmp(gmpy_m_doing(ms[i].doing), "blocked") == 0 ||
              strcmp(gmpy_m_doing(ms[i].doing), "back without a P") == 0);
        CHECK(ms[i].bound == STRANDED && ms[i].pinned == STRANDED + 1 && ms[i].undeclared);
        CHECK(ms[i].g > 0 && ms[i].run_ns > 0 && ms[i].taken_ns > 0);
        blocked++;
    }
    CHECK_EQ(blocked, 1);
    gmpy_gstat gs[4];
    uint32_t at = 0, seen = 0;
    for (uint32_t got; (got = gmpy_g_stats(gs, 4, &at)); seen += got)
        for (uint32_t i = 0; i < got; i++) CHECK(gs[i].status == G_RUNNABLE || gs[i].status == G_RUNNING);
    CHECK_EQ(seen, STRANDED + 1);
    store_seq(&release, true);
    host_stop();
}

static enum step step_sleep_once(task *t, m *mp) {
    (void)mp;
    if (t->pc++) return STEP_END;
    task_sleep(t, t->n);
    return STEP_PARK;
}

static void an_idle_p_counts_its_time(void) {
    host_start(2, POLICY_GO);
    int64_t start = nanotime();
    host_go(step_sleep_once, 300 * MILLISECOND, NULL); /* long beside what holds its M up on its way */
    while (sched_live()) pause_ns(MILLISECOND);
    gmpy_stat stat = counts(0);
    int64_t took = nanotime() - start;
    CHECK(stat.idle_ns > 50 * MILLISECOND && stat.idle_ns < 2 * (took + SECOND));
    CHECK(stat.poll_ns > 25 * MILLISECOND);
    gmpy_hist late;
    gmpy_hist_read(1, &late);
    CHECK(late.total == 1 && late.sum == late.max && stat.timers_fired == 1);
    host_stop();
}

/* ---------------------------------------------------------------- readers */

static _Atomic bool over;

static enum step step_nothing(task *t, m *mp) {
    (void)t, (void)mp;
    return STEP_END;
}

static void read_all(int index) {
    if (index == 0) {
        for (int64_t i = 0; i < scaled(300); i++) {
            host_start(1 + (uint32_t)i % 4, POLICY_GO);
            for (int k = 0; k < 10; k++) host_go(step_nothing, 0, NULL);
            host_stop();
        }
        store_seq(&over, true);
        return;
    }
    gmpy_hist hist;
    gmpy_pstat ps;
    gmpy_mstat ms[8];
    gmpy_gstat gs[8];
    while (!load_seq(&over)) {
        counts(index == 1);
        gmpy_hist_read(index == 1, &hist);
        for (uint32_t i = 0; i < 4; i++) gmpy_p_stat(i, &ps);
        gmpy_m_stats(ms, 8);
        uint32_t at = 0;
        while (gmpy_g_stats(gs, 8, &at)) {
        }
    }
}

static void readers_see_a_runtime_start_and_stop(void) {
    store_seq(&over, false);
    threads(3, read_all);
    gmpy_stat stat = counts(0);
    CHECK(stat.procs == 0 && stat.goroutines == 0 && stat.threads == 0 && stat.counter[0] == 0);
}

int main(void) {
    RUN(a_bucket_holds_what_lies_between_its_bounds);
    RUN(a_histogram_knows_count_sum_and_maximum);
    RUN(a_span_counts_what_goes_on_as_well);
    RUN(stranded_gs_are_counted_by_queues_as_by_slots);
    RUN(an_idle_p_counts_its_time);
    RUN(readers_see_a_runtime_start_and_stop);
    return 0;
}
