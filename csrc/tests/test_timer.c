/* Timer heaps. Plain threads wait here: a parker without a g is woken through its note. */
#include "../timer.h"
#include "check.h"

static timers h;

typedef struct sleeper {
    parker k;
    timer t;
    uint64_t seq;
} sleeper;

static void begin(sleeper *s) {
    s->t.index = -1;
    s->seq = parker_begin(&s->k);
}

static bool claimed(sleeper *s) { return (load_seq(&s->k.word) & PARK_STATE_MASK) == PARK_CLAIMED; }

static void each_fires_once_in_order_of_time(void) {
    static sleeper s[500];
    uint64_t rand = seed(0);
    timers_init(&h);
    CHECK(load_relaxed(&h.next) == INT64_MAX && !timers_run(&h, INT64_MAX - 1));
    for (int i = 0; i < 500; i++) {
        begin(&s[i]);
        CHECK(timers_add(&h, &s[i].t, 1 + rand_next(&rand) % 1000, &s[i].k, s[i].seq));
    }
    for (int i = 0; i < 500; i += 3) {
        timer_remove(&s[i].t);
        timer_remove(&s[i].t); /* again: nothing happens */
    }
    for (int64_t now = 1; now <= 1000; now++) {
        int due = 0;
        int64_t next = INT64_MAX;
        for (int i = 0; i < 500; i++) {
            if (i % 3 == 0) continue;
            due += s[i].t.when == now;
            if (s[i].t.when >= now && s[i].t.when < next) next = s[i].t.when;
        }
        CHECK_EQ(load_relaxed(&h.next), next);
        CHECK_EQ(timers_run(&h, now), due);
    }
    for (int i = 0; i < 500; i++) CHECK_EQ(claimed(&s[i]), i % 3 != 0);
    CHECK(h.n == 0 && load_relaxed(&h.next) == INT64_MAX && load_relaxed(&h.firing) == 0);
    timers_free(&h);
}

static void a_timer_of_an_older_wait_does_nothing(void) {
    sleeper s = {.seq = 0};
    timers_init(&h);
    begin(&s);
    CHECK(timers_add(&h, &s.t, 10, &s.k, s.seq));
    CHECK(parker_claim(&s.k, s.seq, WAKE_OK));
    s.seq = parker_begin(&s.k);
    CHECK_EQ(timers_run(&h, 10), 0);
    CHECK(!claimed(&s));
    timers_free(&h);
}

static int fired;
static parker *on_fire(timer *t) {
    (void)t;
    fired++;
    return NULL;
}

static void a_callback_fires_instead(void) {
    timer a = {.index = -1}, b = {.index = -1};
    timers_init(&h);
    CHECK(timers_add_fire(&h, &a, 10, on_fire) && timers_add_fire(&h, &b, 11, on_fire));
    timer_remove(&b);
    CHECK_EQ(timers_run(&h, 20), 0);
    CHECK_EQ(fired, 1);
    timers_free(&h);
}

/* ---- stress: sleepers arm and disarm on two heaps; two threads run what is due. Every
 * wait ends once: by the timer, or by the sleeper itself. */

static timers heaps[2];
static _Atomic uint32_t sleeping;
static _Atomic uint64_t by_timer, by_self;

static void sleep_or_run(int i) {
    if (i >= 2) {
        while (load_seq(&sleeping)) {
            timers_run(&heaps[0], nanotime());
            timers_run(&heaps[1], nanotime());
        }
        return;
    }
    enum { MANY = 50 };
    static sleeper all[2][MANY];
    sleeper *s = all[i];
    uint64_t rand = seed(i);
    for (int k = 0; k < MANY; k++) s[k].t.index = -1;
    for (int64_t r = 0; r < scaled(3000); r++) {
        int64_t now = nanotime();
        for (int k = 0; k < MANY; k++) {
            s[k].seq = parker_begin(&s[k].k);
            CHECK(timers_add(&heaps[rand_next(&rand) % 2], &s[k].t,
                             now + rand_next(&rand) % (50 * MICROSECOND), &s[k].k, s[k].seq));
        }
        for (int k = 0; k < MANY; k++) {
            if (rand_next(&rand) & 1 && parker_claim(&s[k].k, s[k].seq, WAKE_OK))
                atomic_fetch_add_explicit(&by_self, 1, memory_order_relaxed);
            else {
                note_sleep(&s[k].k.note, 0); /* a lost one hangs here */
                CHECK_EQ(s[k].k.wake, WAKE_TIMEOUT);
                atomic_fetch_add_explicit(&by_timer, 1, memory_order_relaxed);
            }
            timer_remove(&s[k].t);
            CHECK(s[k].t.index < 0 && load_relaxed(&s[k].k.note.set) == 0);
        }
    }
    atomic_fetch_sub(&sleeping, 1);
}

static void every_wait_ends_once(void) {
    timers_init(&heaps[0]);
    timers_init(&heaps[1]);
    store_seq(&sleeping, 2);
    threads(4, sleep_or_run);
    CHECK_EQ(by_self + by_timer, 2 * 50 * scaled(3000));
    CHECK(by_self && by_timer);
    CHECK(heaps[0].n == 0 && heaps[1].n == 0 && heaps[0].firing == 0);
    timers_free(&heaps[0]);
    timers_free(&heaps[1]);
}

int main(void) {
    RUN(each_fires_once_in_order_of_time);
    RUN(a_timer_of_an_older_wait_does_nothing);
    RUN(a_callback_fires_instead);
    RUN(every_wait_ends_once);
    return 0;
}
