/* The global queue: fresh g's and the tokens of M's. */
#include "../runq.h"
#include "check.h"

static globq q;
static runq ring;
static g *gs[600];
static qlink tokens[4] = {{.is_token = true}, {.is_token = true}, {.is_token = true}, {.is_token = true}};

static void fresh(void) {
    memset(&q, 0, sizeof q);
    memset(&ring, 0, sizeof ring);
    for (int i = 0; i < 600; i++)
        if (!gs[i]) gs[i] = g_alloc();
}

static void serves_in_order(void) {
    fresh();
    CHECK(!globq_get(&q) && !globq_get_batch(&q, 9, &ring));
    for (int i = 0; i < 3; i++) globq_put_one(&q, &gs[i]->link);
    store_relaxed(&gs[3]->link.next, &gs[4]->link);
    globq_put(&q, &gs[3]->link, &gs[4]->link, 2);
    CHECK_EQ(globq_len(&q), 5);
    for (int i = 0; i < 5; i++) CHECK(globq_get(&q) == &gs[i]->link);
    CHECK(!globq_get(&q) && globq_len(&q) == 0);
}

static void batch_stops_before_a_token(void) {
    fresh();
    for (int i = 0; i < 3; i++) globq_put_one(&q, &gs[i]->link);
    globq_put_one(&q, &tokens[0]);
    globq_put_one(&q, &gs[3]->link);
    CHECK(globq_get_batch(&q, 10, &ring) == &gs[0]->link);
    CHECK_EQ(runq_len(&ring), 2);
    CHECK(runq_get(&ring) == gs[1] && runq_get(&ring) == gs[2]);
    CHECK(globq_get_batch(&q, 10, &ring) == &tokens[0]);
    CHECK(runq_empty(&ring)); /* alone: the P is handed over, not filled */
    CHECK(globq_get_batch(&q, 10, &ring) == &gs[3]->link);
    CHECK_EQ(globq_len(&q), 0);
}

static void batch_fits_max_and_ring(void) {
    fresh();
    for (int i = 0; i < 600; i++) globq_put_one(&q, &gs[i]->link);
    CHECK(globq_get_batch(&q, 1, &ring) == &gs[0]->link && runq_empty(&ring));
    CHECK(globq_get_batch(&q, 10, &ring) == &gs[1]->link);
    CHECK_EQ(runq_len(&ring), 9);
    CHECK(globq_get_batch(&q, 500, &ring) == &gs[11]->link);
    CHECK_EQ(runq_len(&ring), RUNQ_SIZE); /* no more than there is room for */
    CHECK_EQ(globq_len(&q), 600 - 1 - 10 - (RUNQ_SIZE - 9) - 1);
}

/* ---- stress: threads with a ring each move g's and tokens round. */

enum { MOVERS = 4, COUNT = 400 };
static _Atomic uint32_t in[COUNT], token_in[4];
static runq rings[MOVERS];

static void took(qlink *l) {
    if (l->is_token)
        CHECK(atomic_exchange(&token_in[l - tokens], 0) == 1);
    else
        CHECK(atomic_exchange(&in[containerof(l, g, link)->id], 0) == 1);
}

static void give_back(qlink *l) {
    if (l->is_token)
        CHECK(atomic_exchange(&token_in[l - tokens], 1) == 0);
    else
        CHECK(atomic_exchange(&in[containerof(l, g, link)->id], 1) == 0);
    globq_put_one(&q, l);
}

static void move(int i) {
    uint64_t rand = seed(i);
    for (int64_t r = 0; r < scaled(100000); r++) {
        uint32_t x = rand_next(&rand);
        qlink *l = x & 1 ? globq_get(&q) : globq_get_batch(&q, x / 2 % 50, &rings[i]);
        if (l) took(l);
        g *held[64];
        int n = 0;
        while (n < 64 && (held[n] = runq_get(&rings[i]))) took(&held[n++]->link);
        if (l) give_back(l);
        while (n) give_back(&held[--n]->link);
    }
}

static void no_link_is_lost_or_served_twice(void) {
    fresh();
    for (int i = 0; i < COUNT; i++) {
        gs[i]->id = (uint64_t)i;
        give_back(&gs[i]->link);
        if (i % 100 == 0) give_back(&tokens[i / 100]);
    }
    threads(MOVERS, move);
    int n = 0;
    for (qlink *l; (l = globq_get(&q)); n++) took(l);
    CHECK_EQ(n, COUNT + 4);
    CHECK_EQ(globq_len(&q), 0);
}

int main(void) {
    RUN(serves_in_order);
    RUN(batch_stops_before_a_token);
    RUN(batch_fits_max_and_ring);
    RUN(no_link_is_lost_or_served_twice);
    return 0;
}
