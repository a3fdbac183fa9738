/* Wake-ups that nothing else makes up for: the last M's go to sleep while a plain thread, or
 * sysmon, wakes somebody. One that is lost shows after half a second with every P idle, when sysmon
 * sees what was left: host_stop fails of it. */
#include <sched.h>

#include "host.h"

enum { TASKS = 4 };

static chan inbox[TASKS];
static _Atomic uint32_t done;

enum { BEGIN = 0, RECEIVED, SLEPT };

/* Each message is a time to sleep in ns; 0: not at all. */
static enum step step_nap(task *t, m *mp) {
    (void)mp;
    waiter *w = &t->seats[0];
    switch (t->pc) {
    case BEGIN: /* lets the other P's have their share of the tasks */
        for (int64_t end = nanotime() + MILLISECOND; nanotime() < end;) cpu_relax();
        break;
    case RECEIVED:
        if (!w->ok) return STEP_END; /* closed */
        t->val = w->val;
    received:
        t->pc = SLEPT;
        if (t->val) {
            task_sleep(t, (intptr_t)t->val);
            return STEP_PARK;
        }
    }
    atomic_fetch_add(&done, 1);
    t->pc = RECEIVED;
    switch (chan_recv(&inbox[t->n], &t->val, &t->gp->parker, w)) {
    case CHAN_PARKED: return STEP_PARK;
    case CHAN_DONE: goto received;
    default: return STEP_END;
    }
}

static void tell(uint32_t i, int64_t ns) {
    static parker k;
    static waiter w;
    CHECK_EQ(chan_send(&inbox[i], (void *)(intptr_t)ns, &k, &w), CHAN_DONE);
}

static void wait_for(uint32_t n) {
    while (load_acquire(&done) != n) sched_yield();
}

static void naps(uint32_t procs) {
    uint64_t rand = seed(1);
    for (int i = 0; i < TASKS; i++) CHECK(chan_init(&inbox[i], 1));
    store_seq(&done, 0);
    host_start(procs, POLICY_GO);
    for (int i = 0; i < TASKS; i++) host_go(step_nap, i, NULL);
    wait_for(TASKS);
    for (int64_t round = scaled(5000); round > 0; round--) {
        uint32_t r = rand_next(&rand), one = r % TASKS, other = (one + 1 + (r >> 8) % (TASKS - 1)) % TASKS;
        store_release(&done, 0);
        tell(one, (r >> 16) % (64 * MICROSECOND));
        /* Often just when that nap is over, and an M comes back from netpoll. */
        int64_t pause = rand_next(&rand) % (200 * MICROSECOND);
        for (int64_t end = nanotime() + pause; nanotime() < end;) cpu_relax();
        tell(other, 0);
        wait_for(2);
    }
    for (int i = 0; i < TASKS; i++) chan_close(&inbox[i]);
    host_stop();
    for (int i = 0; i < TASKS; i++) chan_free(&inbox[i]);
}

static void woken_from_outside_with_one_p(void) { naps(1); }
static void woken_from_outside_with_two_ps(void) { naps(2); }
static void woken_from_outside_with_four_ps(void) { naps(4); }

int main(void) {
    RUN(woken_from_outside_with_one_p);
    RUN(woken_from_outside_with_two_ps);
    RUN(woken_from_outside_with_four_ps);
    return 0;
}
