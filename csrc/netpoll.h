/* netpoll: one edge-triggered epoll instance; a poll descriptor (pd) for each fd.
 *
 * Go has one reader and one writer slot per pd, moved by CAS. Here several g's may wait
 * for the same direction and are served in order, so each direction has a queue under
 * the pd's leaf lock, and one word, state = edges << 1 | ready, that is read without it:
 *
 *   - an event adds an edge, sets ready, and wakes the first waiter, who tries again;
 *   - an operation notes the state before its system call. If the call would block, it
 *     waits, unless an edge has come since (then it tries again);
 *   - a short read from a stream means drained: it clears ready by CAS from the noted
 *     state, so that an edge that came meanwhile isn't lost. The next read then parks at
 *     once instead of asking the kernel for EAGAIN. (tokio does the same.) After a hang-up
 *     no further edge may come, so `hup` is for ever and ready is never cleared again.
 *
 * Who was woken holds the baton: it must end with a blocked call (and wait again, first
 * in line) or hand the baton on with netpoll_pass, or the ones behind it wait for ever.
 */
#ifndef GMPY_NETPOLL_H
#define GMPY_NETPOLL_H

#include "core.h"
#include "park.h"

enum { POLL_READ = 0, POLL_WRITE = 1 };

typedef struct pd {
    mutex lock;
    int fd;
    uint32_t index;
    _Atomic uint32_t gen;
    _Atomic bool closing;
    _Atomic bool hup;
    struct {
        _Atomic uint64_t state;
        waitq waiters;
        _Atomic uint32_t n; /* waiters, for a look without the lock */
    } dir[2];
    struct pd *next_free;
} pd;

enum poll_result { POLL_PARK = 0, POLL_AGAIN = 1, POLL_CLOSED = 2 };

/* 0 or -errno. */
int netpoll_init(void);
void netpoll_fini(void);
/* Starts watching fd. NULL with errno set (EPERM: the kernel can't poll this kind). */
pd *netpoll_open(int fd);
/* Wakes every waiter with WAKE_CLOSED; later waits return POLL_CLOSED. The caller closes
 * the fd afterwards. */
void netpoll_close(pd *d);
/* Gives the slot back: nobody may use d any more. */
void netpoll_free(pd *d);

static inline uint64_t netpoll_state(pd *d, int mode) { return load_acquire(&d->dir[mode].state); }
static inline bool netpoll_ready(uint64_t state) { return state & 1; }
/* The operation that began at `state` has drained the fd. */
void netpoll_drained(pd *d, int mode, uint64_t state);
/* k's owner begins a wait, w is queued (front: it held the baton); unless something
 * happened since `state`. */
enum poll_result netpoll_wait(pd *d, int mode, uint64_t state, parker *k, waiter *w, bool front);
/* Takes w out after a wake-up other than WAKE_OK. */
void netpoll_unwait(pd *d, int mode, waiter *w);
/* Hands the baton to the next waiter, if there is one. */
void netpoll_pass(pd *d, int mode);
static inline bool netpoll_queued(pd *d, int mode) { return load_acquire(&d->dir[mode].n) != 0; }

/* Waits for events until the deadline (0: don't wait, INT64_MAX: for ever) and wakes who
 * waited for them. Returns how many were woken. One thread at a time may block in it. */
int netpoll(int64_t deadline);
/* Makes a blocked netpoll return. */
void netpoll_break(void);
/* Waiters on all fds. */
uint32_t netpoll_waiters(void);

#endif
