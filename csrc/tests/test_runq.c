/* The ring of fresh g's: put, get, overflow, steal. */
#include "../runq.h"
#include "check.h"

static runq a, b;
static globq overflow;
static g *gs[1024];

static void fresh(void) {
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    memset(&overflow, 0, sizeof overflow);
    for (int i = 0; i < 1024; i++) {
        if (!gs[i]) gs[i] = g_alloc();
        store_relaxed(&gs[i]->ready_at, 0);
    }
}

static g *steal(runq *to, runq *from, int64_t min_age, bool *young, uint32_t *n) {
    *young = false;
    return runq_steal(to, from, 1000, min_age, young, n);
}

static void gets_in_order_runnext_first(void) {
    fresh();
    CHECK(runq_empty(&a) && !runq_get(&a));
    for (int i = 0; i < 5; i++) runq_put(&a, gs[i], false, &overflow);
    runq_put(&a, gs[5], true, &overflow);
    runq_put(&a, gs[6], true, &overflow); /* kicks 5 to the end */
    CHECK_EQ(runq_len(&a), 7);
    CHECK(runq_get(&a) == gs[6]);
    for (int i = 0; i < 6; i++) CHECK(runq_get(&a) == gs[i]);
    CHECK(runq_empty(&a) && !runq_get(&a));
}

static void full_ring_moves_half_to_the_global_queue(void) {
    fresh();
    for (int i = 0; i < RUNQ_SIZE + 1; i++) runq_put(&a, gs[i], false, &overflow);
    CHECK_EQ(runq_len(&a), RUNQ_SIZE / 2);
    CHECK_EQ(globq_len(&overflow), RUNQ_SIZE / 2 + 1);
    for (int i = 0; i < RUNQ_SIZE / 2; i++) CHECK(globq_get(&overflow) == &gs[i]->link);
    CHECK(globq_get(&overflow) == &gs[RUNQ_SIZE]->link);
    CHECK(!globq_get(&overflow));
    for (int i = RUNQ_SIZE / 2; i < RUNQ_SIZE; i++) CHECK(runq_get(&a) == gs[i]);
}

static void thief_takes_half_from_the_head(void) {
    bool young;
    uint32_t n;
    fresh();
    for (int i = 0; i < 5; i++) runq_put(&b, gs[i], false, &overflow);
    g *got = steal(&a, &b, 0, &young, &n);
    CHECK_EQ(n, 3);
    CHECK_EQ(runq_len(&a), 2);
    CHECK_EQ(runq_len(&b), 2);
    CHECK(got == gs[2] && runq_get(&a) == gs[0] && runq_get(&a) == gs[1]);
    CHECK(runq_get(&b) == gs[3] && runq_get(&b) == gs[4]);
    CHECK(!steal(&a, &b, 0, &young, &n) && n == 0 && !young);
}

static void thief_leaves_young_gs_and_takes_runnext_last(void) {
    bool young;
    uint32_t n;
    fresh();
    store_relaxed(&gs[0]->ready_at, 990);
    runq_put(&b, gs[0], true, &overflow);
    CHECK(!steal(&a, &b, 50, &young, &n) && young);
    CHECK(steal(&a, &b, 10, &young, &n) == gs[0] && n == 1);
    runq_put(&b, gs[1], false, &overflow);
    runq_put(&b, gs[0], true, &overflow);
    CHECK(steal(&a, &b, 10, &young, &n) == gs[1]);
    store_relaxed(&gs[1]->ready_at, 999);
    runq_put(&b, gs[1], false, &overflow);
    CHECK(!steal(&a, &b, 10, &young, &n) && young); /* the ring's first is too young */
}

/* A thief whose first g was left to others still has the rest in its ring. */
static void thief_with_a_full_ring_loses_nothing(void) {
    bool young;
    uint32_t n;
    for (uint32_t had = 0; had <= RUNQ_SIZE; had += 32) {
        fresh();
        for (uint32_t i = 0; i < had; i++) runq_put(&a, gs[i], false, &overflow);
        for (uint32_t i = 0; i < RUNQ_SIZE; i++) runq_put(&b, gs[512 + i], false, &overflow);
        CHECK(steal(&a, &b, 0, &young, &n));
        CHECK_EQ(runq_len(&a), had + n - 1);
        CHECK_EQ(runq_len(&b), RUNQ_SIZE - n);
        for (uint32_t i = 0; i < had; i++) CHECK(runq_get(&a) == gs[i]);
    }
}

/* ---- stress: four owners that rob each other. A g is in no two places: `in` says so. */

enum { OWNERS = 4, PER_OWNER = 300 };
static runq q[OWNERS];
static _Atomic uint32_t in[OWNERS * PER_OWNER * 2];
static uint32_t first_index;
static _Atomic uint64_t moved;

static void put_in(g *gp, int i, bool next) {
    CHECK(atomic_exchange(&in[gp->index - first_index], 1) == 0);
    runq_put(&q[i], gp, next, &overflow);
}

static void taken(g *gp) { CHECK(atomic_exchange(&in[gp->index - first_index], 0) == 1); }

static void rob(int i) {
    uint64_t rand = seed(i);
    int64_t rounds = scaled(300000);
    g *held[64];
    int n = 0;
    for (int64_t r = 0; r < rounds; r++) {
        uint32_t x = rand_next(&rand), stolen;
        bool young;
        g *gp = NULL;
        switch (x % 4) {
        case 0:
            if (n) put_in(held[--n], i, x & 16);
            break;
        case 1:
            if (n < 64 && (gp = runq_get(&q[i]))) taken(gp), held[n++] = gp;
            break;
        case 2:
            if (n < 64 && (gp = runq_steal(&q[i], &q[(i + 1 + x / 16 % (OWNERS - 1)) % OWNERS], 0, INT64_MIN,
                                           &young, &stolen)))
                taken(gp), held[n++] = gp, atomic_fetch_add_explicit(&moved, stolen, memory_order_relaxed);
            break;
        case 3:
            if (n < 64 && x % 64 == 3) {
                qlink *l = globq_get_batch(&overflow, 40, &q[i]);
                if (l) gp = containerof(l, g, link), taken(gp), held[n++] = gp;
            }
            break;
        }
        runq_empty(&q[(i + 1) % OWNERS]);
    }
    while (n) put_in(held[--n], i, false);
}

static void no_g_is_lost_or_taken_twice(void) {
    memset(q, 0, sizeof q);
    memset(&overflow, 0, sizeof overflow);
    first_index = UINT32_MAX;
    g *all[OWNERS * PER_OWNER];
    for (int i = 0; i < OWNERS * PER_OWNER; i++) {
        all[i] = g_alloc();
        if (all[i]->index < first_index) first_index = all[i]->index;
    }
    for (int i = 0; i < OWNERS * PER_OWNER; i++) {
        CHECK(all[i]->index - first_index < sizeof in / sizeof *in);
        put_in(all[i], i % OWNERS, false);
    }
    threads(OWNERS, rob);
    uint32_t left = 0;
    for (int i = 0; i < OWNERS; i++)
        for (g *gp; (gp = runq_get(&q[i])); left++) taken(gp);
    for (qlink *l; (l = globq_get(&overflow)); left++) taken(containerof(l, g, link));
    CHECK_EQ(left, OWNERS * PER_OWNER);
    CHECK(load_seq(&moved) > 0);
}

int main(void) {
    RUN(gets_in_order_runnext_first);
    RUN(full_ring_moves_half_to_the_global_queue);
    RUN(thief_takes_half_from_the_head);
    RUN(thief_leaves_young_gs_and_takes_runnext_last);
    RUN(thief_with_a_full_ring_loses_nothing);
    RUN(no_g_is_lost_or_taken_twice);
    return 0;
}
