/* The queue of an M's started g's: many push, one pops. */
#include "../runq.h"
#include "check.h"

static boundq q;
static g *gs[16];

static void fresh(void) {
    memset(&q, 0, sizeof q);
    boundq_init(&q);
    for (int i = 0; i < 16; i++)
        if (!gs[i]) gs[i] = g_alloc();
}

static void pops_in_order(void) {
    fresh();
    CHECK(!boundq_pop(&q) && boundq_len(&q) == 0);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 5; i++) boundq_push(&q, gs[i]);
        CHECK_EQ(boundq_len(&q), 5);
        for (int i = 0; i < 5; i++) {
            CHECK(boundq_pop(&q) == gs[i]);
            if (i == 2) boundq_push(&q, gs[5]);
        }
        CHECK(boundq_pop(&q) == gs[5]);
        CHECK(!boundq_pop(&q) && boundq_len(&q) == 0);
    }
}

static void own_and_others_take_turns(void) {
    fresh();
    for (int i = 0; i < 4; i++) boundq_push(&q, gs[i]);
    for (int i = 4; i < 8; i++) boundq_push_own(&q, gs[i]);
    CHECK_EQ(boundq_len(&q), 8);
    int shared = 0, own = 4;
    for (int i = 0; i < 8; i++) {
        g *gp = boundq_pop(&q);
        if (gp == gs[shared])
            shared++;
        else
            CHECK(gp == gs[own++]);
        CHECK(abs((own - 4) - shared) <= 1);
    }
    CHECK(!boundq_pop(&q) && boundq_len(&q) == 0);
}

static void a_list_that_is_cut_says_so(void) {
    for (int before = 0; before < 3; before++) {
        fresh();
        CHECK(!boundq_cut(&q));
        for (int i = 0; i < before; i++) boundq_push(&q, gs[i]);
        for (int i = 1; i < before; i++) CHECK(boundq_pop(&q) == gs[i - 1]);
        CHECK(!boundq_cut(&q));                 /* one is left, if any */
        store_relaxed(&gs[5]->link.next, NULL); /* a pusher's first step */
        atomic_fetch_add(&q.n, 1);
        qlink *prev = atomic_exchange(&q.tail, &gs[5]->link);
        if (before) CHECK(!boundq_pop(&q)); /* it can't be separated from what comes behind */
        CHECK(boundq_cut(&q) && !boundq_pop(&q) && boundq_len(&q) == 1 + (before > 0));
        boundq_push_own(&q, gs[6]);
        CHECK(!boundq_cut(&q) && boundq_pop(&q) == gs[6] && boundq_cut(&q));
        store_release(&prev->next, &gs[5]->link); /* the second */
        CHECK(!boundq_cut(&q));
        if (before) CHECK(boundq_pop(&q) == gs[before - 1]);
        CHECK(boundq_pop(&q) == gs[5] && !boundq_pop(&q) && boundq_len(&q) == 0);
    }
}

/* ---- stress: each pusher has some g's that come back to it once popped. */

enum { PUSHERS = 3, EACH = 20 };
static _Atomic uint32_t at_home[PUSHERS + 1][EACH];
static g *theirs[PUSHERS + 1][EACH];
static _Atomic uint32_t finished;
static uint64_t popped;

static void push_or_pop(int i) {
    int64_t rounds = scaled(200000);
    if (i < PUSHERS) {
        uint32_t at = 0;
        for (int64_t r = 0; r < rounds; r++, at = (at + 1) % EACH) {
            while (!load_acquire(&at_home[i][at])) cpu_relax();
            store_relaxed(&at_home[i][at], 0);
            boundq_push(&q, theirs[i][at]);
        }
        atomic_fetch_add(&finished, 1);
        return;
    }
    uint32_t next[PUSHERS + 1] = {0}, own = 0;
    while (load_seq(&finished) < PUSHERS || boundq_len(&q)) {
        if (load_relaxed(&at_home[PUSHERS][own]) && load_seq(&finished) < PUSHERS) {
            store_relaxed(&at_home[PUSHERS][own], 0);
            boundq_push_own(&q, theirs[PUSHERS][own]);
            own = (own + 1) % EACH;
        }
        g *gp = boundq_pop(&q);
        if (!gp) continue;
        popped++;
        uint32_t from = (uint32_t)(gp->id / EACH), at = (uint32_t)(gp->id % EACH);
        CHECK_EQ(at, next[from]); /* in each pusher's order */
        next[from] = (at + 1) % EACH;
        CHECK(load_relaxed(&at_home[from][at]) == 0);
        store_release(&at_home[from][at], 1);
    }
    CHECK_EQ(boundq_len(&q), 0);
    CHECK(!boundq_pop(&q));
}

static void no_g_is_lost_or_overtaken(void) {
    fresh();
    for (int i = 0; i <= PUSHERS; i++)
        for (int k = 0; k < EACH; k++) {
            theirs[i][k] = g_alloc();
            theirs[i][k]->id = (uint64_t)(i * EACH + k);
            at_home[i][k] = 1;
        }
    threads(PUSHERS + 1, push_or_pop);
    CHECK(popped >= (uint64_t)(PUSHERS * scaled(200000)));
}

int main(void) {
    RUN(pops_in_order);
    RUN(own_and_others_take_turns);
    RUN(a_list_that_is_cut_says_so);
    RUN(no_g_is_lost_or_overtaken);
    return 0;
}
