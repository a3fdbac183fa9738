/* The netpoller, by itself: plain threads wait, the test polls. */
#include "../netpoll.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#include "../g.h"
#include "check.h"

typedef struct end {
    int fd;
    pd *d;
} end;

static end a, b;

static void pair_open(void) {
    int fds[2];
    CHECK_EQ(netpoll_init(), 0);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0);
    a = (end){.fd = fds[0], .d = netpoll_open(fds[0])};
    b = (end){.fd = fds[1], .d = netpoll_open(fds[1])};
    CHECK(a.d && b.d);
    netpoll(0); /* both are writable: the first edge */
}

static void end_close(end *e) {
    netpoll_close(e->d);
    close(e->fd);
    netpoll_free(e->d);
}

static void pair_close(void) {
    end_close(&a);
    end_close(&b);
    CHECK_EQ(netpoll_waiters(), 0);
}

static parker k[3];
static waiter w[3];

/* As a caller does: try, and say what came of it. */
static bool drain(end *e) {
    char buf[64];
    uint64_t state = netpoll_state(e->d, POLL_READ);
    ssize_t n = read(e->fd, buf, sizeof buf);
    if (n < 0) netpoll_drained(e->d, POLL_READ, state);
    return n > 0;
}

static enum poll_result enter(end *e, int i) { return netpoll_enter(e->d, POLL_READ, &k[i], &w[i]); }

static enum poll_result wait_read(end *e, int i) {
    return netpoll_wait(e->d, POLL_READ, netpoll_state(e->d, POLL_READ), &k[i], &w[i]);
}

static void give_up(end *e, int i) {
    CHECK(wait_take_back(&k[i], load_relaxed(&k[i].word) >> 2, WAKE_TIMEOUT));
    netpoll_unwait(e->d, POLL_READ, &w[i]);
}

static bool woken(int i) { return note_sleep(&k[i].note, nanotime()); }

static void ends_at_the_deadline_or_at_a_break(void) {
    CHECK_EQ(netpoll_init(), 0);
    int64_t start = nanotime();
    netpoll(start + 3 * MILLISECOND);
    CHECK(nanotime() - start >= 3 * MILLISECOND);
    for (int i = 0; i < 3; i++) {
        netpoll_break();
        netpoll_break();
        start = nanotime();
        netpoll(INT64_MAX);
    }
    netpoll(nanotime() + MILLISECOND); /* the two breaks were one */
    CHECK(nanotime() - start >= MILLISECOND);
}

static void a_look_in_passing_leaves_the_break(void) {
    CHECK_EQ(netpoll_init(), 0);
    netpoll_break();
    netpoll(0);
    netpoll(0);
    netpoll(INT64_MAX); /* hangs if it is gone */
}

static void operations_are_done_in_the_order_they_came(void) {
    pair_open();
    CHECK_EQ(enter(&a, 0), POLL_AGAIN);
    CHECK_EQ(enter(&a, 1), POLL_PARK);
    CHECK_EQ(enter(&a, 2), POLL_PARK);
    CHECK_EQ(netpoll_waiters(), 2);
    netpoll_leave(a.d, POLL_READ);
    CHECK(woken(1) && k[1].wake == WAKE_OK && !woken(2));
    CHECK_EQ(enter(&a, 0), POLL_PARK); /* behind 2 */
    netpoll_leave(a.d, POLL_READ);
    CHECK(woken(2) && !woken(0));
    netpoll_leave(a.d, POLL_READ);
    CHECK(woken(0));
    netpoll_leave(a.d, POLL_READ);
    CHECK_EQ(a.d->dir[POLL_READ].line, 0);
    pair_close();
}

static void an_edge_wakes_the_holder(void) {
    pair_open();
    while (drain(&a)) {
    }
    CHECK_EQ(enter(&a, 0), POLL_AGAIN);
    CHECK_EQ(wait_read(&a, 0), POLL_PARK);
    CHECK_EQ(enter(&a, 1), POLL_PARK);
    CHECK(write(b.fd, "xyz", 3) == 3);
    CHECK_EQ(netpoll(0), 1);
    CHECK(woken(0) && k[0].wake == WAKE_OK && !woken(1));
    CHECK(drain(&a) && !drain(&a));
    CHECK_EQ(wait_read(&a, 0), POLL_PARK); /* blocked again: it is still its turn */
    CHECK(write(b.fd, "x", 1) == 1);
    CHECK_EQ(netpoll(0), 1);
    CHECK(woken(0) && !woken(1));
    netpoll_leave(a.d, POLL_READ);
    CHECK(woken(1));
    netpoll_leave(a.d, POLL_READ);
    pair_close();
}

static void an_edge_since_the_try_means_again(void) {
    pair_open();
    while (drain(&a)) {
    }
    uint64_t state = netpoll_state(a.d, POLL_READ);
    CHECK(!netpoll_ready(state));
    CHECK(write(b.fd, "x", 1) == 1);
    netpoll(0);
    CHECK_EQ(netpoll_wait(a.d, POLL_READ, state, &k[0], &w[0]), POLL_AGAIN);
    netpoll_drained(a.d, POLL_READ, state); /* too old to clear it */
    CHECK(netpoll_ready(netpoll_state(a.d, POLL_READ)));
    pair_close();
}

static void a_wait_taken_back_leaves_the_line(void) {
    pair_open();
    while (drain(&a)) {
    }
    CHECK_EQ(enter(&a, 0), POLL_AGAIN);
    CHECK_EQ(wait_read(&a, 0), POLL_PARK);
    CHECK_EQ(enter(&a, 1), POLL_PARK);
    CHECK_EQ(enter(&a, 2), POLL_PARK);
    give_up(&a, 1);
    give_up(&a, 0); /* the holder: it leaves by itself */
    CHECK(write(b.fd, "x", 1) == 1);
    CHECK_EQ(netpoll(0), 0);
    netpoll_leave(a.d, POLL_READ);
    CHECK(woken(2) && !woken(1) && !woken(0));
    CHECK(drain(&a));
    netpoll_leave(a.d, POLL_READ);
    CHECK(netpoll_waiters() == 0 && a.d->dir[POLL_READ].line == 0);
    pair_close();
}

static void close_wakes_everybody_and_stays_closed(void) {
    pair_open();
    while (drain(&a)) {
    }
    CHECK_EQ(enter(&a, 0), POLL_AGAIN);
    CHECK_EQ(wait_read(&a, 0), POLL_PARK);
    for (int i = 1; i < 3; i++) CHECK_EQ(enter(&a, i), POLL_PARK);
    netpoll_close(a.d);
    netpoll_close(a.d);
    for (int i = 0; i < 3; i++) CHECK(woken(i) && k[i].wake == WAKE_CLOSED);
    CHECK_EQ(wait_read(&a, 0), POLL_CLOSED);
    CHECK_EQ(enter(&a, 1), POLL_CLOSED);
    CHECK_EQ(netpoll_waiters(), 0);
    netpoll_leave(a.d, POLL_READ);
    pair_close();
}

static void after_a_hangup_it_stays_ready(void) {
    pair_open();
    CHECK(write(b.fd, "xyz", 3) == 3);
    CHECK(shutdown(b.fd, SHUT_WR) == 0);
    netpoll(0);
    CHECK(drain(&a));
    netpoll_drained(a.d, POLL_READ, netpoll_state(a.d, POLL_READ)); /* a short read */
    CHECK(netpoll_ready(netpoll_state(a.d, POLL_READ)));            /* the end is still to be read */
    pair_close();
}

static void events_of_a_former_fd_are_stale(void) {
    pair_open();
    pd *slot = a.d;
    netpoll_close(a.d);
    netpoll_free(a.d);
    int other[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, other) == 0);
    pd *d = netpoll_open(other[0]);
    CHECK(d == slot); /* the same slot, used again */
    uint64_t state = netpoll_state(d, POLL_READ);
    CHECK(write(b.fd, "x", 1) == 1);
    netpoll(0);
    CHECK_EQ(netpoll_state(d, POLL_READ), state);
    netpoll_close(d);
    netpoll_free(d);
    close(a.fd);
    close(other[0]);
    close(other[1]);
    end_close(&b);
}

static void two_watch_one_fd(void) {
    pair_open();
    end twin = {.fd = a.fd, .d = netpoll_open(a.fd)};
    CHECK(twin.d && twin.d->own_fd && twin.d->fd != a.fd);
    netpoll(0);
    while (drain(&a)) {
    }
    netpoll_drained(twin.d, POLL_READ, netpoll_state(twin.d, POLL_READ));
    CHECK(write(b.fd, "x", 1) == 1);
    netpoll(0);
    CHECK(netpoll_ready(netpoll_state(a.d, POLL_READ)));
    CHECK(netpoll_ready(netpoll_state(twin.d, POLL_READ)));
    int own = twin.d->fd;
    netpoll_close(twin.d);
    CHECK(fcntl(own, F_GETFD) < 0 && fcntl(a.fd, F_GETFD) >= 0);
    netpoll_free(twin.d);
    /* One that is freed without a close, as its owner was forgotten. */
    CHECK((twin.d = netpoll_open(a.fd)) != NULL);
    own = twin.d->fd;
    netpoll_free(twin.d);
    CHECK(fcntl(own, F_GETFD) < 0);
    pair_close();
}

static void a_plain_file_is_refused(void) {
    CHECK_EQ(netpoll_init(), 0);
    char name[] = "/tmp/test_netpoll_XXXXXX";
    int fd = mkstemp(name);
    CHECK(fd >= 0 && !netpoll_open(fd) && errno == EPERM);
    unlink(name);
    close(fd);
}

/* ---- stress: a break ends a blocked poll, always, whoever else looks at the events. */

static _Atomic uint64_t asked, answered;
static _Atomic bool over;

static void break_or_poll(int i) {
    switch (i) {
    case 0:
        while (!load_seq(&over)) {
            uint64_t n = load_seq(&asked);
            store_seq(&answered, n);
            netpoll(nanotime() + 20 * SECOND);
        }
        break;
    case 1:
        while (!load_seq(&over)) netpoll(0);
        break;
    case 2:
        for (int64_t r = 0; r < scaled(30000); r++) {
            atomic_fetch_add(&asked, 1);
            netpoll_break();
            while (load_seq(&answered) != load_seq(&asked)) cpu_relax(); /* a lost break hangs here */
        }
        store_seq(&over, true);
        netpoll_break();
        break;
    }
}

static void no_break_is_lost(void) {
    CHECK_EQ(netpoll_init(), 0);
    store_seq(&over, false);
    threads(3, break_or_poll);
}

/* ---- stress: several readers on each of some sockets, one poller, writers, time-outs:
 * every byte is read, nobody waits for ever. */

enum { SOCKS = 3, READERS = 6 };
static end in[SOCKS], out[SOCKS];
static _Atomic uint64_t bytes_in, bytes_out;
static _Atomic uint32_t writers, readers, holds[SOCKS];

/* Parks until woken; odd readers give up after a while, the others would hang if a wake-up
 * were lost. False: it gave up, and isn't in the line or still holds it. */
static bool parked(end *e, int i, parker *k, waiter *w, uint64_t *rand) {
    int64_t deadline = i % 2 ? nanotime() + rand_next(rand) % (300 * MICROSECOND) : 0;
    uint64_t seq = load_relaxed(&k->word) >> 2;
    if (note_sleep(&k->note, deadline)) return true;
    if (wait_take_back(k, seq, WAKE_TIMEOUT)) {
        netpoll_unwait(e->d, POLL_READ, w);
        return false;
    }
    note_sleep(&k->note, 0);
    return true;
}

static void read_some(int i) {
    static _Thread_local parker k;
    static _Thread_local waiter w;
    end *e = &in[i % SOCKS];
    uint64_t rand = seed(i);
    for (ssize_t n = -1; n != 0;) {
        n = -1;
        if (netpoll_enter(e->d, POLL_READ, &k, &w) == POLL_PARK && !parked(e, i, &k, &w, &rand)) continue;
        CHECK(atomic_exchange(&holds[i % SOCKS], 1) == 0);
        for (;;) {
            uint64_t state = netpoll_state(e->d, POLL_READ);
            if (netpoll_ready(state)) {
                char buf[4];
                n = read(e->fd, buf, 1 + rand_next(&rand) % 4);
                if (n >= 0) break;
                CHECK(errno == EAGAIN);
                netpoll_drained(e->d, POLL_READ, state);
            }
            if (netpoll_wait(e->d, POLL_READ, state, &k, &w) == POLL_PARK && !parked(e, i, &k, &w, &rand))
                break;
        }
        if (n > 0) atomic_fetch_add(&bytes_in, (uint64_t)n);
        store_seq(&holds[i % SOCKS], 0);
        netpoll_leave(e->d, POLL_READ);
    }
}

static void serve(int i) {
    uint64_t rand = seed(50 + i);
    if (i < READERS) {
        read_some(i);
        atomic_fetch_sub(&readers, 1);
    } else if (i < READERS + 2) {
        for (int64_t r = 0; r < scaled(10000); r++) {
            uint32_t x = rand_next(&rand);
            ssize_t n = write(out[x % SOCKS].fd, "abcdefgh", 1 + x / 16 % 8);
            if (n > 0)
                atomic_fetch_add(&bytes_out, (uint64_t)n);
            else
                CHECK(errno == EAGAIN);
            if (x % 64 == 0) pause_ns(20 * MICROSECOND);
        }
        if (atomic_fetch_sub(&writers, 1) == 1)
            for (int s = 0; s < SOCKS; s++) shutdown(out[s].fd, SHUT_WR);
    } else {
        while (load_seq(&readers)) netpoll(nanotime() + MILLISECOND);
    }
}

static void every_byte_is_read_and_nobody_waits_for_ever(void) {
    CHECK_EQ(netpoll_init(), 0);
    for (int s = 0; s < SOCKS; s++) {
        int fds[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0);
        in[s] = (end){.fd = fds[0], .d = netpoll_open(fds[0])};
        out[s] = (end){.fd = fds[1], .d = netpoll_open(fds[1])};
    }
    store_seq(&writers, 2);
    store_seq(&readers, READERS);
    threads(READERS + 3, serve);
    CHECK_EQ(bytes_in, bytes_out);
    for (int s = 0; s < SOCKS; s++) {
        end_close(&in[s]);
        end_close(&out[s]);
    }
    CHECK_EQ(netpoll_waiters(), 0);
}

int main(void) {
    RUN(ends_at_the_deadline_or_at_a_break);
    RUN(a_look_in_passing_leaves_the_break);
    RUN(operations_are_done_in_the_order_they_came);
    RUN(an_edge_wakes_the_holder);
    RUN(an_edge_since_the_try_means_again);
    RUN(a_wait_taken_back_leaves_the_line);
    RUN(close_wakes_everybody_and_stays_closed);
    RUN(after_a_hangup_it_stays_ready);
    RUN(events_of_a_former_fd_are_stale);
    RUN(two_watch_one_fd);
    RUN(a_plain_file_is_refused);
    RUN(no_break_is_lost);
    RUN(every_byte_is_read_and_nobody_waits_for_ever);
    return 0;
}
