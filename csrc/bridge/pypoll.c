/* pypoll.c: system calls on sockets that park the G instead of blocking its thread.
 *
 * Every operation is the same: get to the head of the fd's line for that direction; try
 * without blocking; if the kernel has nothing, park until the netpoller saw an edge; try
 * again; leave the line. No exception is made for 'would block'. A plain thread takes no
 * place in the line, and waits in poll(2) instead. */
#include "bridge.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "../netpoll.h"

enum { SCRATCH = 64 * 1024, TIMED_OUT = 1 };

typedef struct {
    PyObject_HEAD
    int fd;
    pd *d;
    uint32_t epoch;         /* fork makes a new epoll: descriptors of the old one are dead */
    _Atomic uint32_t users; /* system calls under way */
    _Atomic bool closed;
    bool drains;      /* of a stream: a short read or write means that the kernel's buffer is done */
    _Atomic int late; /* the errno that ended a read which had some bytes already: the next one's */
} PyPoll;

static PyTypeObject *Poll_Type;
static _Atomic uint32_t epoch = 1;
static _Thread_local char *scratch; /* where small reads go before they become bytes */
static pthread_key_t scratch_key;   /* frees it when the thread ends */

/* One operation: what, in which direction, until when. */
typedef struct io {
    ssize_t (*op)(struct io *);
    int64_t deadline;
    void *buf;
    size_t len;
    struct sockaddr_storage *from; /* who sent it, or connected */
    socklen_t fromlen;
    int fd;
    int flags;
    uint8_t mode;
    bool stream; /* bytes without borders */
    bool some;   /* a read that has some already, and wants more */
} io;

static ssize_t op_recv(io *a) { return recv(a->fd, a->buf, a->len, a->flags | MSG_DONTWAIT); }
static ssize_t op_send(io *a) { return send(a->fd, a->buf, a->len, a->flags | MSG_DONTWAIT | MSG_NOSIGNAL); }
static ssize_t op_recvfrom(io *a) {
    a->fromlen = sizeof *a->from;
    return recvfrom(a->fd, a->buf, a->len, a->flags | MSG_DONTWAIT, (struct sockaddr *)a->from, &a->fromlen);
}
static ssize_t op_accept(io *a) {
    a->fromlen = sizeof *a->from;
    return accept4(a->fd, (struct sockaddr *)a->from, &a->fromlen, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static out_of_line int closed_error(PyPoll *self) {
    PyObject *e = PyObject_CallFunction(
        PyExc_OSError, "iN", EBADF, PyUnicode_FromFormat("fd %d was closed, here or by another G", self->fd));
    if (e) PyErr_SetObject(PyExc_OSError, e);
    Py_XDECREF(e);
    return -1;
}

static int timeout_error(void) {
    PyErr_SetString(PyExc_TimeoutError, "timed out");
    return -1;
}

static bool is_watched(PyPoll *self) { return self->d && self->epoch == load_relaxed(&epoch); }

/* The descriptor, made when it is first waited on. NULL with an exception set. */
static pd *descriptor(PyPoll *self) {
    pd *d = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (load_relaxed(&self->closed))
        closed_error(self);
    else if (is_watched(self))
        d = self->d;
    else if ((d = self->d = netpoll_open(self->fd))) /* an older slot died with the fork */
        self->epoch = load_relaxed(&epoch);
    else
        PyErr_SetFromErrno(PyExc_OSError);
    Py_END_CRITICAL_SECTION();
    return d;
}

static ssize_t attempt(PyPoll *self, io *a) {
    atomic_fetch_add(&self->users, 1);
    ssize_t n = -1;
    if (load_seq(&self->closed))
        errno = EBADF;
    else if (unlikely(load_relaxed(&self->late)) && a->op == op_recv)
        errno = atomic_exchange(&self->late, 0);
    else
        do n = a->op(a);
        while (n < 0 && errno == EINTR);
    int err = errno;
    atomic_fetch_sub(&self->users, 1);
    errno = err;
    return n;
}

static bool would_block(int err) { return err == EAGAIN || err == EWOULDBLOCK; }

static int thread_wait(PyPoll *self, int mode, int64_t deadline) {
    struct pollfd p = {.fd = self->fd, .events = mode == POLL_READ ? POLLIN : POLLOUT};
    for (;;) {
        int64_t left = deadline ? deadline - nanotime() : 0;
        if (deadline && left <= 0) return timeout_error();
        struct timespec ts = {left / SECOND, left % SECOND};
        int r;
        Py_BEGIN_ALLOW_THREADS
        r = ppoll(&p, 1, deadline ? &ts : NULL, NULL);
        Py_END_ALLOW_THREADS
        if (r > 0) return 0;
        if (r < 0 && errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        if (r < 0 && PyErr_CheckSignals() < 0) return -1;
    }
}

/* The wait that was begun on the line or for an edge is over. 0, TIMED_OUT, or -1 with an exception
 * set. */
static out_of_line int slept(PyPoll *self, pd *d, int mode, int why, waiter *w) {
    if (why == WAKE_OK) return 0;
    if (why == WAKE_CLOSED) return closed_error(self);
    netpoll_unwait(d, mode, w);
    return why == WAKE_TIMEOUT ? TIMED_OUT : -1;
}

static inline int sleep_on(PyPoll *self, pd *d, int mode, g *gp, int64_t deadline) {
    int why = park_g(gp, deadline, mode == POLL_READ ? WAIT_IO_READ : WAIT_IO_WRITE);
    return slept(self, d, mode, why, &gp->waiter);
}

/* Goes to the head of the line. The descriptor, or NULL with an exception set. In a G. */
static out_of_line pd *hold(PyPoll *self, int mode, int64_t deadline) {
    g *gp = current_g();
    pd *d = self->d;
    if (unlikely(!is_watched(self)) && !(d = descriptor(self))) return NULL;
    switch (netpoll_enter(d, mode, &gp->parker, &gp->waiter)) {
    case POLL_AGAIN: return d;
    case POLL_CLOSED: closed_error(self); return NULL;
    case POLL_PARK: break;
    }
    int slept = sleep_on(self, d, mode, gp, deadline);
    if (slept == TIMED_OUT) timeout_error();
    return slept ? NULL : d;
}

/* Sleeps until something happened on the fd since `state`. 0, TIMED_OUT, or -1 with an exception
 * set. In a G. */
static out_of_line int await_edge(PyPoll *self, pd *d, int mode, uint64_t state, int64_t deadline) {
    g *gp = current_g();
    switch (netpoll_wait(d, mode, state, &gp->parker, &gp->waiter)) {
    case POLL_AGAIN: return 0;
    case POLL_CLOSED: return closed_error(self);
    case POLL_PARK: break;
    }
    return sleep_on(self, d, mode, gp, deadline);
}

/* The error of a read that has some bytes already is the next one's, as in the kernel: what came
 * before a reset isn't lost. */
static out_of_line ssize_t failed(PyPoll *self, io *a, int err) {
    if (load_relaxed(&self->closed)) return closed_error(self);
    if (a->some) {
        store_relaxed(&self->late, err);
        return 0;
    }
    errno = err;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static inline bool short_means_drained(PyPoll *self, int flags) {
    return self->drains && !(flags & (MSG_PEEK | MSG_OOB | MSG_TRUNC));
}

/* The operation of who holds the line. Returns what a->op did, or -1 with an exception set. A last
 * try comes after the timeout: the event may have come in time, and nobody had a CPU to look. */
static inline __attribute__((always_inline)) ssize_t held_io(PyPoll *self, pd *d, io *a) {
    for (bool last = false;;) {
        uint64_t state = netpoll_state(d, a->mode);
        if (netpoll_ready(state) || last) {
            ssize_t n = attempt(self, a);
            if (likely(n >= 0)) {
                if (a->stream && (size_t)n < a->len && n > 0 && short_means_drained(self, a->flags))
                    netpoll_drained(d, a->mode, state);
                return n;
            }
            int err = errno;
            if (err == ECONNABORTED && a->op == op_accept) continue; /* that client gave up: the next */
            if (!would_block(err)) return failed(self, a, err);
            if (last) return timeout_error();
            netpoll_drained(d, a->mode, state);
        }
        int slept = await_edge(self, d, a->mode, state, a->deadline);
        if (slept < 0) return -1;
        last = slept == TIMED_OUT;
    }
}

/* The operation of a plain thread, or one that mustn't wait (deadline -2). */
static out_of_line ssize_t thread_io(PyPoll *self, io *a) {
    for (;;) {
        ssize_t n = attempt(self, a);
        if (n >= 0) return n;
        if (!would_block(errno) || a->deadline == -2 || load_relaxed(&self->closed))
            return failed(self, a, errno);
        if (thread_wait(self, a->mode, a->deadline) < 0) return -1;
    }
}

static bool parks(int64_t deadline) { return deadline != -2 && current_g(); }

static out_of_line ssize_t do_io(PyPoll *self, io *a) {
    a->fd = self->fd;
    if (!parks(a->deadline)) return thread_io(self, a);
    pd *d = hold(self, a->mode, a->deadline);
    if (!d) return -1;
    ssize_t n = held_io(self, d, a);
    netpoll_leave(d, a->mode);
    return n;
}

/* The same again and again until there is nothing left to do, or (reading) to come: the G keeps
 * the line, so that two big operations don't mix their bytes. How much was done; -1 with an
 * exception set, whatever was done before (but see failed). */
static out_of_line ssize_t do_all(PyPoll *self, io *a) {
    a->fd = self->fd;
    size_t all = a->len;
    bool parking = parks(a->deadline);
    pd *d = NULL;
    if (parking && !(d = hold(self, a->mode, a->deadline))) return -1;
    ssize_t n;
    do {
        n = parking ? held_io(self, d, a) : thread_io(self, a);
        if (n < 0) break;
        a->buf = (char *)a->buf + n;
        a->len -= (size_t)n;
        a->some = a->mode == POLL_READ;
    } while (a->len && (n || a->mode == POLL_WRITE));
    if (parking) netpoll_leave(d, a->mode);
    return n < 0 ? -1 : (ssize_t)(all - a->len);
}

/* timeout as socket.settimeout has it: None for ever, 0 non-blocking. MSG_DONTWAIT is for
 * sockets that wait for ever, as in the stdlib. */
static int io_deadline(PyObject *timeout, int flags, int64_t *deadline) {
    *deadline = timeout != Py_None ? deadline_from(timeout) : flags & MSG_DONTWAIT ? -2 : 0;
    return *deadline == -1 ? -1 : 0;
}

static int need_args(Py_ssize_t nargs, Py_ssize_t n, const char *name) {
    if (nargs == n) return 0;
    PyErr_Format(PyExc_TypeError, "Poll.%s() takes %zd arguments", name, n);
    return -1;
}

/* What recv and recv_into are told; a->from and a->stream are set already. How many bytes, or
 * -1 with an exception set. */
static out_of_line Py_ssize_t read_args(io *a, const char *name, PyObject *size, PyObject *flagbits,
                                        PyObject *timeout) {
    Py_ssize_t n = PyNumber_AsSsize_t(size, PyExc_OverflowError);
    a->op = a->from ? op_recvfrom : op_recv;
    a->mode = POLL_READ;
    a->flags = (int)PyLong_AsLong(flagbits);
    if ((unlikely(n == -1 || a->flags == -1) && PyErr_Occurred()) ||
        io_deadline(timeout, a->flags, &a->deadline) < 0)
        return -1;
    if (n < 0) PyErr_Format(PyExc_ValueError, "%s=%zd: can't receive less than 0 bytes", name, n);
    return n;
}

/* recv with MSG_WAITALL: the kernel does that only where it may block. A socket with a timeout
 * doesn't wait for all, as in the stdlib. */
static bool wants_all(io *a) {
    return a->flags & MSG_WAITALL && !(a->flags & MSG_PEEK) && a->stream && !a->from && !a->deadline;
}

static out_of_line bool scratch_new(void) {
    scratch = malloc(SCRATCH);
    if (scratch) pthread_setspecific(scratch_key, scratch);
    return scratch;
}

static out_of_line PyObject *receive_much(PyPoll *self, io *a) {
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)a->len);
    if (!bytes) return NULL;
    a->buf = PyBytes_AS_STRING(bytes);
    ssize_t got = wants_all(a) ? do_all(self, a) : do_io(self, a);
    if (got < 0) {
        Py_DECREF(bytes);
        return NULL;
    }
    if (got < PyBytes_GET_SIZE(bytes)) _PyBytes_Resize(&bytes, got);
    return bytes;
}

/* recv, or recvfrom when there is room for an address. */
static PyObject *receive(PyPoll *self, io *a, PyObject *size, PyObject *flagbits, PyObject *timeout) {
    Py_ssize_t n = read_args(a, "bufsize", size, flagbits, timeout);
    if (n < 0) return NULL;
    a->len = (size_t)n;
    if (unlikely(n > SCRATCH || wants_all(a))) return receive_much(self, a);
    if (unlikely(n == 0 && !a->from)) return PyBytes_FromStringAndSize(NULL, 0);
    /* The buffer is the thread's: fetch it anew for the copy, the system call that filled it
     * was the last thing that happened. */
    if (unlikely(!scratch) && !scratch_new()) return PyErr_NoMemory();
    a->buf = scratch;
    ssize_t got = do_io(self, a);
    /* More than n: MSG_TRUNC tells the datagram's real length. */
    return got < 0 ? NULL : PyBytes_FromStringAndSize(scratch, got < n ? got : n);
}

static PyObject *poll_recv(PyPoll *self, PyObject *const *args, Py_ssize_t nargs) {
    if (need_args(nargs, 4, "recv") < 0) return NULL;
    io a = {.stream = args[3] == Py_True};
    return receive(self, &a, args[0], args[1], args[2]);
}

/* As the socket module shows it: IPv4, IPv6 and Unix. */
static PyObject *address(const struct sockaddr_storage *from, socklen_t len) {
    char text[INET6_ADDRSTRLEN];
    if (len == 0) Py_RETURN_NONE;
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)from;
        inet_ntop(AF_INET, &in->sin_addr, text, sizeof text);
        return Py_BuildValue("si", text, ntohs(in->sin_port));
    }
    if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const void *)from;
        inet_ntop(AF_INET6, &in->sin6_addr, text, sizeof text);
        return Py_BuildValue("siII", text, ntohs(in->sin6_port), ntohl(in->sin6_flowinfo), in->sin6_scope_id);
    }
    if (from->ss_family == AF_UNIX) {
        const char *path = ((const struct sockaddr_un *)from)->sun_path;
        size_t n =
            len > offsetof(struct sockaddr_un, sun_path) ? len - offsetof(struct sockaddr_un, sun_path) : 0;
        if (n && path[0] == 0) return PyBytes_FromStringAndSize(path, (Py_ssize_t)n); /* abstract */
        return PyUnicode_DecodeFSDefaultAndSize(path, (Py_ssize_t)strnlen(path, n));
    }
    PyErr_Format(PyExc_ValueError, "address family %d isn't one that Poll can show", (int)from->ss_family);
    return NULL;
}

/* (what, address); steals what, which may be NULL with an exception set. */
static PyObject *with_address(PyObject *what, io *a) {
    PyObject *from = what ? address(a->from, a->fromlen) : NULL;
    PyObject *pair = from ? PyTuple_Pack(2, what, from) : NULL;
    Py_XDECREF(what);
    Py_XDECREF(from);
    return pair;
}

static PyObject *poll_recvfrom(PyPoll *self, PyObject *const *args, Py_ssize_t nargs) {
    if (need_args(nargs, 3, "recvfrom") < 0) return NULL;
    struct sockaddr_storage from;
    io a = {.from = &from};
    return with_address(receive(self, &a, args[0], args[1], args[2]), &a);
}

static PyObject *receive_into(PyPoll *self, io *a, PyObject *buffer, PyObject *size, PyObject *flagbits,
                              PyObject *timeout) {
    Py_buffer view;
    Py_ssize_t n = read_args(a, "nbytes", size, flagbits, timeout);
    if (n < 0) return NULL;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0) {
        if (PyErr_ExceptionMatches(PyExc_BufferError))
            PyErr_Format(PyExc_TypeError,
                         "can't receive into %.100s: give a bytearray or another writable buffer",
                         Py_TYPE(buffer)->tp_name);
        return NULL;
    }
    ssize_t got = -1;
    if (n > view.len)
        PyErr_Format(PyExc_ValueError, "nbytes=%zd: the buffer has room for 0 to %zd bytes", n, view.len);
    else {
        a->buf = view.buf;
        a->len = (size_t)(n ? n : view.len);
        if (unlikely(a->len == 0 && !a->from))
            got = 0;
        else
            got = wants_all(a) ? do_all(self, a) : do_io(self, a);
    }
    PyBuffer_Release(&view);
    return got < 0 ? NULL : PyLong_FromSsize_t(got);
}

static PyObject *poll_recv_into(PyPoll *self, PyObject *const *args, Py_ssize_t nargs) {
    if (need_args(nargs, 5, "recv_into") < 0) return NULL;
    io a = {.stream = args[4] == Py_True};
    return receive_into(self, &a, args[0], args[1], args[2], args[3]);
}

static PyObject *poll_recvfrom_into(PyPoll *self, PyObject *const *args, Py_ssize_t nargs) {
    if (need_args(nargs, 4, "recvfrom_into") < 0) return NULL;
    struct sockaddr_storage from;
    io a = {.from = &from};
    return with_address(receive_into(self, &a, args[0], args[1], args[2], args[3]), &a);
}

static PyObject *send_some(PyPoll *self, PyObject *const *args, Py_ssize_t nargs, bool all) {
    Py_buffer view;
    if (need_args(nargs, 4, all ? "sendall" : "send") < 0) return NULL;
    io a = {.op = op_send, .mode = POLL_WRITE, .stream = args[3] == Py_True};
    a.flags = (int)PyLong_AsLong(args[1]);
    if ((unlikely(a.flags == -1) && PyErr_Occurred()) || io_deadline(args[2], a.flags, &a.deadline) < 0)
        return NULL;
    if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0) return NULL;
    a.buf = view.buf;
    a.len = (size_t)view.len;
    ssize_t sent = all ? do_all(self, &a) : do_io(self, &a);
    PyBuffer_Release(&view);
    if (sent < 0) return NULL;
    if (all) Py_RETURN_NONE;
    return PyLong_FromSsize_t(sent);
}

static PyObject *poll_send(PyPoll *self, PyObject *const *args, Py_ssize_t nargs) {
    return send_some(self, args, nargs, false);
}
static PyObject *poll_sendall(PyPoll *self, PyObject *const *args, Py_ssize_t nargs) {
    return send_some(self, args, nargs, true);
}

static PyObject *poll_accept(PyPoll *self, PyObject *timeout) {
    struct sockaddr_storage from;
    io a = {.op = op_accept, .mode = POLL_READ, .from = &from};
    if (io_deadline(timeout, 0, &a.deadline) < 0) return NULL;
    ssize_t fd = do_io(self, &a);
    if (fd < 0) return NULL;
    PyObject *pair = with_address(PyLong_FromSsize_t(fd), &a);
    if (!pair) close((int)fd);
    return pair;
}

/* For operations that Python does itself: is the fd ready? */
static ssize_t op_probe(io *a) {
    struct pollfd p = {.fd = a->fd, .events = (short)a->flags};
    int r = poll(&p, 1, 0);
    if (r == 0) errno = EAGAIN;
    return r > 0 ? 0 : -1;
}

static PyObject *poll_wait(PyPoll *self, PyObject *const *args, Py_ssize_t nargs) {
    if (need_args(nargs, 2, "wait") < 0) return NULL;
    bool writing = PyObject_IsTrue(args[0]);
    io a = {.op = op_probe, .mode = writing ? POLL_WRITE : POLL_READ, .flags = writing ? POLLOUT : POLLIN};
    if (io_deadline(args[1], 0, &a.deadline) < 0 || do_io(self, &a) < 0) return NULL;
    Py_RETURN_NONE;
}

/* One try of call(): fn's result, or NULL: with an exception set, or without if it would
 * have to wait. */
static PyObject *call_once(PyPoll *self, int mode, bool probe, bool wait, PyObject *const *call,
                           Py_ssize_t nargs) {
    io a = {.op = op_probe, .fd = self->fd, .flags = mode == POLL_READ ? POLLIN : POLLOUT};
    if (load_relaxed(&self->closed)) {
        closed_error(self);
        return NULL;
    }
    if (wait && probe && attempt(self, &a) < 0 && would_block(errno)) return NULL;
    PyObject *r = PyObject_Vectorcall(call[0], call + 1, (size_t)(nargs - 1), NULL);
    if (!r && wait && PyErr_ExceptionMatches(PyExc_BlockingIOError)) PyErr_Clear();
    return r;
}

static PyObject *poll_call(PyPoll *self, PyObject *const *args, Py_ssize_t nargs) {
    int64_t deadline;
    if (nargs < 4) {
        PyErr_SetString(PyExc_TypeError, "Poll.call() takes at least 4 arguments");
        return NULL;
    }
    int mode = args[0] == Py_True ? POLL_WRITE : POLL_READ;
    bool probe = args[1] == Py_True;
    PyObject *const *call = args + 3, *r = NULL;
    if (io_deadline(args[2], 0, &deadline) < 0) return NULL;
    bool wait = deadline != -2;
    if (!parks(deadline)) {
        while (!(r = call_once(self, mode, probe, wait, call, nargs - 3)) && !PyErr_Occurred())
            if (thread_wait(self, mode, deadline) < 0) break;
        return r;
    }
    pd *d = hold(self, mode, deadline);
    if (!d) return NULL;
    for (bool last = false;;) { /* as held_io */
        uint64_t state = netpoll_state(d, mode);
        if (netpoll_ready(state) || last) {
            r = call_once(self, mode, probe, wait, call, nargs - 3);
            if (r || PyErr_Occurred()) break;
            if (last) {
                timeout_error();
                break;
            }
            netpoll_drained(d, mode, state);
        }
        int slept = await_edge(self, d, mode, state, deadline);
        if (slept < 0) break;
        last = slept == TIMED_OUT;
    }
    netpoll_leave(d, mode);
    return r;
}

static PyObject *poll_close(PyPoll *self, PyObject *Py_UNUSED(unused)) {
    if (atomic_exchange(&self->closed, true)) Py_RETURN_NONE;
    pd *d = NULL;
    Py_BEGIN_CRITICAL_SECTION(self); /* see descriptor() */
    if (is_watched(self)) d = self->d;
    Py_END_CRITICAL_SECTION();
    if (d) netpoll_close(d);
    /* System calls on other M's end within microseconds; only then may the number be
     * given to another file. After a fork they are the parent's. */
    while (self->epoch == load_relaxed(&epoch) && load_seq(&self->users)) sched_yield();
    Py_RETURN_NONE;
}

static PyObject *poll_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    int fd, drains = 0;
    if (kwargs || !PyArg_ParseTuple(args, "i|p:Poll", &fd, &drains)) return NULL;
    PyPoll *self = (PyPoll *)type->tp_alloc(type, 0);
    if (self) {
        self->fd = fd;
        self->drains = drains;
        self->epoch = load_relaxed(&epoch);
    }
    return (PyObject *)self;
}

static void poll_dealloc(PyPoll *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (is_watched(self)) netpoll_free(self->d);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *door_netpoll_forked(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    atomic_fetch_add(&epoch, 1);
    Py_RETURN_NONE;
}

#define FAST(f) (PyCFunction)(void (*)(void)) f
static PyMethodDef poll_methods[] = {
    {"recv", FAST(poll_recv), METH_FASTCALL, "recv(n, flags, timeout, stream) -> bytes"},
    {"recv_into", FAST(poll_recv_into), METH_FASTCALL, "recv_into(buffer, n, flags, timeout, stream) -> int"},
    {"send", FAST(poll_send), METH_FASTCALL, "send(data, flags, timeout, stream) -> int"},
    {"sendall", FAST(poll_sendall), METH_FASTCALL, "sendall(data, flags, timeout, stream)"},
    {"recvfrom", FAST(poll_recvfrom), METH_FASTCALL, "recvfrom(n, flags, timeout) -> (bytes, address)"},
    {"recvfrom_into", FAST(poll_recvfrom_into), METH_FASTCALL,
     "recvfrom_into(buffer, n, flags, timeout) -> (int, address)"},
    {"accept", (PyCFunction)poll_accept, METH_O, "accept(timeout) -> (fd, address)"},
    {"wait", FAST(poll_wait), METH_FASTCALL, "wait(for_writing, timeout)"},
    {"call", FAST(poll_call), METH_FASTCALL,
     "call(for_writing, probe, timeout, fn, *args): what fn(*args) returns, called again after a wait while "
     "it\n"
     "raises BlockingIOError. probe: asks the kernel first, for a fn that would mostly raise."},
    {"close", (PyCFunction)poll_close, METH_NOARGS,
     "close(): wakes the waiters; before the fd itself is closed"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot poll_slots[] = {
    {Py_tp_new, poll_new},
    {Py_tp_dealloc, poll_dealloc},
    {Py_tp_methods, poll_methods},
    {Py_tp_doc,
     "Poll(fd, drains=False): non-blocking operations on a file descriptor that park the calling G.\n"
     "drains: that it is a stream's, and a short read means that there is no more.\n"
     "Call close() before the descriptor is closed or watched by another Poll.\n"
     "timeout: seconds, None: for ever, 0: BlockingIOError instead of waiting. Addresses:\n"
     "IPv4, IPv6 and Unix."},
    {0, NULL},
};

static PyType_Spec poll_spec = {
    .name = "gmpy_rt._door.Poll",
    .basicsize = sizeof(PyPoll),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = poll_slots,
};

static PyMethodDef methods[] = {
    {"netpoll_forked", door_netpoll_forked, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

int pypoll_init(PyObject *module) {
    static bool keyed; /* a second interpreter imports it, too */
    if (!keyed && pthread_key_create(&scratch_key, free)) return -1;
    keyed = true;
    Poll_Type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &poll_spec, NULL);
    if (!Poll_Type || PyModule_AddObjectRef(module, "Poll", (PyObject *)Poll_Type) < 0) return -1;
    return PyModule_AddFunctions(module, methods);
}
