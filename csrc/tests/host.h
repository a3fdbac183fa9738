/* host: a host for the scheduler whose g's are state machines.
 *
 * A task's step function runs until the task waits, yields or ends; `pc` and the like say
 * where it goes on. To wait it begins a wait (wait_begin, or through a channel, a lock,
 * the netpoller), and returns PARK. The host checks at every step what must never break:
 * no task is run by two M's at once, or twice for one wake-up, and a started one never
 * changes its M.
 */
#ifndef HOST_H
#define HOST_H

#include "../chan.h"
#include "../gsync.h"
#include "../netpoll.h"
#include "../scheduler.h"
#include "check.h"

enum step { STEP_PARK, STEP_YIELD, STEP_END };

typedef struct task task;
typedef enum step (*step_fn)(task *t, m *mp);

struct task {
    task *next;
    g *gp;
    step_fn step;
    int pc;
    int64_t n;
    void *arg;
    void *val;
    uint64_t rand;
    int64_t deadline; /* of the wait it returns PARK for; 0: none */
    uint32_t nsteps;
    _Atomic(m *) home;
    _Atomic uint32_t running;
    _Atomic uint32_t ended;
    chan_case cases[4];
    waiter seats[4];
    uint32_t order[8];
    bool closed;
};

typedef struct mhost {
    _Atomic uint32_t state; /* enum host_state */
    _Atomic uint32_t preempt;
} mhost;

/* Starts the scheduler. */
void host_start(uint32_t procs, uint32_t policy);
/* Waits until every task has ended, then stops the scheduler. */
void host_stop(void);
/* Called once host_start has been, by anybody: makes a task run. */
task *host_go(step_fn step, int64_t n, void *arg);
task *host_go_solo(step_fn step, int64_t n, void *arg); /* one whose function blocks */
task *host_go_latency(step_fn step, int64_t n, void *arg);
task *host_go_latency_solo(step_fn step, int64_t n, void *arg);
void host_dump(void);

/* Inside a step. */
uint8_t task_wake(task *t);           /* why the last wait ended */
void task_sleep(task *t, int64_t ns); /* then return STEP_PARK */
bool task_preempted(m *mp);           /* asked to yield? */
void task_block_declared(m *mp, int64_t ns);
void task_block_undeclared(m *mp, int64_t ns);
/* As lock_os_thread(): its M starts no other g's. */
void task_lock_m(m *mp, int by);
/* Ends the wait t is in, if it is in one, with WAKE_CANCEL. t must not end meanwhile. */
bool task_cancel(task *t);

/* Both ends of a pair of sockets, in the netpoller. */
typedef struct conn {
    int fd;
    pd *d;
} conn;
void host_connect(conn ends[2]);
void host_disconnect(conn ends[2]);

extern _Atomic uint64_t host_steps, host_idles, host_preempts;
extern bool host_spin;
extern bool host_left_behind;   /* a test that loses a wake-up */
extern bool host_reserve_stays; /* nobody changes the reserve: reserved P's are checked, too */

#endif
