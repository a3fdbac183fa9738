/* Channels and select, used by plain threads; test_sched_stress.c uses them from g's. */
#include "../chan.h"
#include "../g.h"
#include "check.h"

static _Thread_local parker k;
static _Thread_local waiter w[4];
static int v[8];

static void buffered_in_order_then_closed(void) {
    chan c;
    void *out = NULL;
    CHECK(chan_init(&c, 3));
    for (int round = 0; round < 5; round++) {
        CHECK_EQ(chan_recv(&c, &out, NULL, NULL), CHAN_FULL);
        for (int i = 0; i < 3; i++) CHECK_EQ(chan_send(&c, &v[i], NULL, NULL), CHAN_DONE);
        CHECK_EQ(chan_send(&c, &v[3], NULL, NULL), CHAN_FULL);
        for (int i = 0; i < 2; i++) CHECK(chan_recv(&c, &out, NULL, NULL) == CHAN_DONE && out == &v[i]);
        CHECK_EQ(chan_send(&c, &v[3], NULL, NULL), CHAN_DONE);
        CHECK(chan_recv(&c, &out, NULL, NULL) == CHAN_DONE && out == &v[2]);
        CHECK(chan_recv(&c, &out, NULL, NULL) == CHAN_DONE && out == &v[3]);
    }
    CHECK_EQ(chan_send(&c, &v[0], NULL, NULL), CHAN_DONE);
    CHECK(chan_close(&c) && !chan_close(&c));
    CHECK_EQ(chan_send(&c, &v[1], NULL, NULL), CHAN_CLOSED);
    CHECK(chan_recv(&c, &out, NULL, NULL) == CHAN_DONE && out == &v[0]); /* what was sent is kept */
    CHECK_EQ(chan_recv(&c, &out, NULL, NULL), CHAN_CLOSED);
    chan_free(&c);
}

static void growing_keeps_what_is_in_it_in_order(void) {
    chan c;
    void *out;
    CHECK(chan_init(&c, 2));
    for (int i = 0; i < 2; i++) CHECK_EQ(chan_send(&c, &v[i], NULL, NULL), CHAN_DONE);
    CHECK(chan_recv(&c, &out, NULL, NULL) == CHAN_DONE && out == &v[0]); /* first is in the middle */
    CHECK_EQ(chan_send(&c, &v[2], NULL, NULL), CHAN_DONE);
    CHECK_EQ(chan_send(&c, &v[3], NULL, NULL), CHAN_FULL);
    CHECK(chan_grow(&c) && c.cap == 4);
    for (int i = 3; i < 5; i++) CHECK_EQ(chan_send(&c, &v[i], NULL, NULL), CHAN_DONE);
    CHECK_EQ(chan_send(&c, &v[5], NULL, NULL), CHAN_FULL);
    for (int i = 1; i < 5; i++) CHECK(chan_recv(&c, &out, NULL, NULL) == CHAN_DONE && out == &v[i]);
    CHECK_EQ(chan_recv(&c, &out, NULL, NULL), CHAN_FULL);
    chan_free(&c);
}

static void waiter_gets_the_value_directly(void) {
    chan c;
    void *out;
    CHECK(chan_init(&c, 0));
    CHECK_EQ(chan_send(&c, &v[0], NULL, NULL), CHAN_FULL);
    CHECK_EQ(chan_recv(&c, &out, &k, w), CHAN_PARKED);
    CHECK_EQ(chan_send(&c, &v[1], NULL, NULL), CHAN_DONE);
    CHECK(note_sleep(&k.note, 0) && k.wake == WAKE_OK && k.hit == w && w->ok && w->val == &v[1]);
    CHECK_EQ(chan_send(&c, &v[2], &k, w), CHAN_PARKED);
    CHECK(chan_recv(&c, &out, NULL, NULL) == CHAN_DONE && out == &v[2]);
    CHECK(note_sleep(&k.note, 0) && w->ok);
    chan_free(&c);
}

static void a_waiting_senders_value_goes_behind_the_ring(void) {
    chan c;
    void *out;
    CHECK(chan_init(&c, 1));
    CHECK_EQ(chan_send(&c, &v[0], NULL, NULL), CHAN_DONE);
    CHECK_EQ(chan_send(&c, &v[1], &k, w), CHAN_PARKED);
    CHECK(chan_recv(&c, &out, NULL, NULL) == CHAN_DONE && out == &v[0]);
    CHECK(note_sleep(&k.note, 0) && w->ok);
    CHECK(chan_recv(&c, &out, NULL, NULL) == CHAN_DONE && out == &v[1]);
    chan_free(&c);
}

static void close_wakes_waiters_without_a_value(void) {
    chan c;
    void *out;
    CHECK(chan_init(&c, 0));
    CHECK_EQ(chan_recv(&c, &out, &k, w), CHAN_PARKED);
    CHECK(chan_close(&c));
    CHECK(note_sleep(&k.note, 0) && k.wake == WAKE_OK && !w->ok);
    chan_free(&c);
}

static void a_wait_taken_back_gets_nothing(void) {
    chan c;
    void *out;
    CHECK(chan_init(&c, 0));
    CHECK_EQ(chan_recv(&c, &out, &k, w), CHAN_PARKED);
    CHECK(wait_take_back(&k, load_relaxed(&k.word) >> 2, WAKE_TIMEOUT));
    CHECK_EQ(chan_send(&c, &v[0], NULL, NULL), CHAN_FULL); /* drops the stale waiter */
    chan_unwait(&c, w, false);
    CHECK(!w->linked && !c.recvq.first && !c.recvq.last);
    chan_free(&c);
}

static void select_takes_one_of_the_ready(void) {
    chan a, b;
    uint32_t order[8];
    uint64_t rand = seed(0);
    bool closed;
    int hits[4] = {0};
    CHECK(chan_init(&a, 1) && chan_init(&b, 1));
    for (int round = 0; round < 1000; round++) {
        chan_send(&a, &v[0], NULL, NULL);
        chan_case cases[4] = {{.c = &a}, {.c = &b, .sending = true, .val = &v[1]}, {.c = NULL}, {.c = &a}};
        int i = select_try(cases, 4, NULL, order, &rand, &closed);
        CHECK(i >= 0 && i != 2 && !closed);
        hits[i]++;
        if (i != 1) CHECK(cases[i].val == &v[0]);
        void *out;
        chan_recv(&b, &out, NULL, NULL);
        chan_recv(&a, &out, NULL, NULL);
    }
    CHECK(hits[0] > 200 && hits[1] > 200 && hits[3] > 200); /* no favourite */
    chan_case none[2] = {{.c = &a}, {.c = NULL}};
    CHECK_EQ(select_try(none, 2, NULL, order, &rand, &closed), -1);
    chan_close(&a);
    CHECK(select_try(none, 2, NULL, order, &rand, &closed) == 0 && closed);
    chan_free(&a);
    chan_free(&b);
}

static void select_waits_on_all_and_is_hit_once(void) {
    chan a, b;
    uint32_t order[8];
    uint64_t rand = seed(0);
    bool closed;
    CHECK(chan_init(&a, 0) && chan_init(&b, 0));
    chan_case cases[3] = {
        {.c = &a, .w = &w[0]}, {.c = &b, .w = &w[1]}, {.c = &a, .sending = true, .val = &v[5], .w = &w[2]}};
    CHECK_EQ(select_try(cases, 3, &k, order, &rand, &closed), -1);
    CHECK_EQ(chan_send(&b, &v[0], NULL, NULL), CHAN_DONE);
    CHECK_EQ(chan_send(&a, &v[1], NULL, NULL), CHAN_FULL); /* it has been hit already */
    void *out;
    CHECK_EQ(chan_recv(&a, &out, NULL, NULL), CHAN_FULL);
    CHECK(note_sleep(&k.note, 0));
    select_done(cases, 3);
    CHECK(k.hit == &w[1] && w[1].index == 1 && w[1].ok && w[1].val == &v[0]);
    CHECK(!a.recvq.first && !a.sendq.first && !b.recvq.first);
    chan_free(&a);
    chan_free(&b);
}

/* ---- stress: every value sent is received once; with select and time-outs in between. */

enum { SENDERS = 2, RECEIVERS = 2, SELECTERS = 2, CHANS = 3 };
static chan cs[CHANS];
static _Atomic uint64_t sent_sum, got_sum, sent_n, got_n;
static _Atomic uint32_t senders_left;

static void note_sent(void *x) {
    atomic_fetch_add(&sent_n, 1);
    atomic_fetch_add(&sent_sum, (uintptr_t)x);
}

static void note_got(void *x) {
    atomic_fetch_add(&got_n, 1);
    atomic_fetch_add(&got_sum, (uintptr_t)x);
}

/* False: it timed out, the wait is over. */
static bool wait_or_give_up(uint64_t *rand) {
    uint64_t seq = load_relaxed(&k.word) >> 2;
    if (note_sleep(&k.note, nanotime() + rand_next(rand) % (200 * MICROSECOND))) return true;
    if (wait_take_back(&k, seq, WAKE_TIMEOUT)) return false;
    note_sleep(&k.note, 0);
    return true;
}

static void talk(int i) {
    uint64_t rand = seed(i);
    uint32_t order[8];
    bool closed = false;
    int64_t r = 0, rounds = scaled(20000);
    if (i < SENDERS) {
        for (; r < rounds; r++) {
            chan *c = &cs[rand_next(&rand) % CHANS];
            void *x = (void *)(uintptr_t)(i * rounds + r + 1);
            switch (chan_send(c, x, &k, w)) {
            case CHAN_PARKED:
                if (wait_or_give_up(&rand)) {
                    CHECK(w->ok);
                    note_sent(x);
                } else
                    chan_unwait(c, w, true);
                break;
            case CHAN_DONE: note_sent(x); break;
            default: CHECK(!"open");
            }
        }
        if (atomic_fetch_sub(&senders_left, 1) == 1)
            for (int c = 0; c < CHANS; c++) CHECK(chan_close(&cs[c]));
    } else if (i < SENDERS + RECEIVERS) {
        for (uint32_t open = (1 << CHANS) - 1; open;) {
            uint32_t at = rand_next(&rand) % CHANS;
            void *x;
            switch (chan_recv(&cs[at], &x, &k, w)) {
            case CHAN_PARKED:
                if (!wait_or_give_up(&rand))
                    chan_unwait(&cs[at], w, false);
                else if (w->ok)
                    note_got(w->val);
                break;
            case CHAN_DONE: note_got(x); break;
            default: open &= ~(1u << at);
            }
        }
    } else {
        for (uint32_t open = (1 << CHANS) - 1; open;) {
            chan_case cases[CHANS];
            for (int c = 0; c < CHANS; c++)
                cases[c] = (chan_case){.c = open >> c & 1 ? &cs[c] : NULL, .w = &w[c]};
            int hit = select_try(cases, CHANS, &k, order, &rand, &closed);
            if (hit >= 0) {
                if (closed)
                    open &= ~(1u << hit);
                else
                    note_got(cases[hit].val);
                continue;
            }
            bool woken = wait_or_give_up(&rand);
            select_done(cases, CHANS);
            if (woken && k.hit->ok) note_got(k.hit->val);
        }
    }
}

static void every_value_is_received_once(void) {
    for (uint32_t cap = 0; cap < 3; cap++) {
        for (int c = 0; c < CHANS; c++) CHECK(chan_init(&cs[c], cap * (uint32_t)c));
        store_seq(&senders_left, SENDERS);
        threads(SENDERS + RECEIVERS + SELECTERS, talk);
        CHECK_EQ(sent_n, got_n);
        CHECK_EQ(sent_sum, got_sum);
        for (int c = 0; c < CHANS; c++) {
            CHECK(!cs[c].count && !cs[c].recvq.first && !cs[c].sendq.first);
            chan_free(&cs[c]);
        }
    }
}

int main(void) {
    RUN(buffered_in_order_then_closed);
    RUN(growing_keeps_what_is_in_it_in_order);
    RUN(waiter_gets_the_value_directly);
    RUN(a_waiting_senders_value_goes_behind_the_ring);
    RUN(close_wakes_waiters_without_a_value);
    RUN(a_wait_taken_back_gets_nothing);
    RUN(select_takes_one_of_the_ready);
    RUN(select_waits_on_all_and_is_hit_once);
    RUN(every_value_is_received_once);
    return 0;
}
