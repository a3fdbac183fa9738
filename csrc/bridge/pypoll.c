/* pypoll.c: system calls on sockets that park the G instead of blocking its thread.
 *
 * Every operation is the same loop: try without blocking; if the kernel has nothing, park
 * until the netpoller saw an edge; try again. No exception is made for 'would block'.
 * A plain thread waits in poll(2) instead. */
#include "bridge.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>

#include "../netpoll.h"

enum { SCRATCH = 64 * 1024 };

typedef struct {
    PyObject_HEAD
    int fd;
    pd *d;
    uint32_t epoch; /* fork makes a new epoll: descriptors of the old one are dead */
    _Atomic uint32_t users; /* system calls under way */
    _Atomic bool closed;
} PyPoll;

static PyTypeObject *Poll_Type;
static _Atomic uint32_t epoch = 1;
static _Thread_local char *scratch; /* where small reads go before they become bytes */

typedef struct io {
    int fd;
    void *buf;
    size_t len;
    int flags;
} io;

static ssize_t op_recv(io *a) { return recv(a->fd, a->buf, a->len, a->flags | MSG_DONTWAIT); }
static ssize_t op_send(io *a) { return send(a->fd, a->buf, a->len, a->flags | MSG_DONTWAIT | MSG_NOSIGNAL); }
static ssize_t op_accept(io *a) { return accept4(a->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK); }

static int closed_error(PyPoll *self) {
    PyObject *e = PyObject_CallFunction(PyExc_OSError, "iN", EBADF,
                                        PyUnicode_FromFormat("fd %d was closed, here or by another G", self->fd));
    if (e) PyErr_SetObject(PyExc_OSError, e);
    Py_XDECREF(e);
    return -1;
}

static int timeout_error(void) {
    PyErr_SetString(PyExc_TimeoutError, "timed out");
    return -1;
}

/* The descriptor, made when it is first waited on. NULL with an exception set. */
static pd *descriptor(PyPoll *self) {
    pd *d = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->d && self->epoch != load_relaxed(&epoch)) self->d = NULL; /* its slot died with the fork */
    if (!self->d) {
        self->d = netpoll_open(self->fd);
        self->epoch = load_relaxed(&epoch);
        if (!self->d) PyErr_SetFromErrno(PyExc_OSError);
    }
    d = self->d;
    Py_END_CRITICAL_SECTION();
    return d;
}

static ssize_t attempt(PyPoll *self, ssize_t (*op)(io *), io *a) {
    atomic_fetch_add(&self->users, 1);
    ssize_t n = -1;
    if (load_seq(&self->closed))
        errno = EBADF;
    else
        do n = op(a);
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

/* Parks until something happened on the fd since `state`. 0, or -1 with an exception. */
static int g_wait(PyPoll *self, pd *d, int mode, uint64_t state, int64_t deadline, bool *baton) {
    seat s;
    if (seat_take(&s) < 0) return -1;
    switch (netpoll_wait(d, mode, state, s.parker, s.waiter, *baton)) {
    case POLL_AGAIN: return 0;
    case POLL_CLOSED: return closed_error(self);
    case POLL_PARK: break;
    }
    int why = park(&s, deadline, mode == POLL_READ ? WAIT_IO_READ : WAIT_IO_WRITE);
    if (why == WAKE_OK) {
        *baton = true;
        return 0;
    }
    *baton = false; /* whoever claims a waiter for I/O says WAKE_OK: we never had it */
    if (why == WAKE_CLOSED) return closed_error(self);
    netpoll_unwait(d, mode, s.waiter);
    return why == WAKE_TIMEOUT ? timeout_error() : -1;
}

/* deadline -2: don't wait. Returns what op did, or -1 with an exception set. stream: a
 * short count means that the kernel's buffer is drained. */
static ssize_t do_io(PyPoll *self, int mode, ssize_t (*op)(io *), io *a, int64_t deadline, bool stream) {
    a->fd = self->fd;
    if (!current_g() || deadline == -2) {
        for (;;) {
            ssize_t n = attempt(self, op, a);
            if (n >= 0) return n;
            if (load_relaxed(&self->closed)) return closed_error(self);
            if (!would_block(errno) || deadline == -2) {
                PyErr_SetFromErrno(PyExc_OSError);
                return -1;
            }
            if (thread_wait(self, mode, deadline) < 0) return -1;
        }
    }
    pd *d = self->d;
    if (unlikely(!d || self->epoch != load_relaxed(&epoch)) && !(d = descriptor(self))) return -1;
    for (bool baton = false;;) {
        uint64_t state = netpoll_state(d, mode);
        if (netpoll_ready(state) && (baton || !netpoll_queued(d, mode))) {
            ssize_t n = attempt(self, op, a);
            int err = errno;
            if (n >= 0) {
                if (stream && (size_t)n < a->len && n > 0) netpoll_drained(d, mode, state);
                if (unlikely(netpoll_queued(d, mode))) netpoll_pass(d, mode);
                return n;
            }
            if (err == ECONNABORTED && op == op_accept) continue; /* that client gave up: the next */
            if (!would_block(err)) {
                netpoll_pass(d, mode);
                if (load_relaxed(&self->closed)) return closed_error(self);
                errno = err;
                PyErr_SetFromErrno(PyExc_OSError);
                return -1;
            }
            netpoll_drained(d, mode, state);
        }
        if (g_wait(self, d, mode, state, deadline, &baton) < 0) return -1;
    }
}

/* timeout as socket.settimeout has it: None for ever, 0 non-blocking. */
static int io_deadline(PyObject *timeout, int64_t *deadline) {
    *deadline = timeout == Py_None ? 0 : deadline_from(timeout);
    return *deadline == -1 ? -1 : 0;
}

static int need_args(Py_ssize_t nargs, Py_ssize_t n, const char *name) {
    if (nargs == n) return 0;
    PyErr_Format(PyExc_TypeError, "Poll.%s() takes %zd arguments", name, n);
    return -1;
}

static bool short_means_drained(int flags) { return !(flags & (MSG_PEEK | MSG_OOB | MSG_WAITALL | MSG_TRUNC)); }

static PyObject *poll_recv(PyPoll *self, PyObject *const *args, Py_ssize_t nargs) {
    int64_t deadline;
    if (need_args(nargs, 4, "recv") < 0) return NULL;
    Py_ssize_t n = PyNumber_AsSsize_t(args[0], PyExc_OverflowError);
    int flags = (int)PyLong_AsLong(args[1]);
    if (PyErr_Occurred() || io_deadline(args[2], &deadline) < 0) return NULL;
    bool stream = args[3] == Py_True && short_means_drained(flags);
    if (n < 0) {
        PyErr_SetString(PyExc_ValueError, "negative buffersize in recv");
        return NULL;
    }
    if (n <= SCRATCH) {
        /* The buffer is the thread's: fetch it anew for the copy, the system call that
         * filled it was the last thing that happened. */
        if (unlikely(!scratch) && !(scratch = PyMem_RawMalloc(SCRATCH))) return PyErr_NoMemory();
        io a = {.buf = scratch, .len = (size_t)n, .flags = flags};
        ssize_t got = do_io(self, POLL_READ, op_recv, &a, deadline, stream);
        return got < 0 ? NULL : PyBytes_FromStringAndSize(scratch, got < n ? got : n);
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, n);
    if (!bytes) return NULL;
    io a = {.buf = PyBytes_AS_STRING(bytes), .len = (size_t)n, .flags = flags};
    ssize_t got = do_io(self, POLL_READ, op_recv, &a, deadline, stream);
    if (got < 0) {
        Py_DECREF(bytes);
        return NULL;
    }
    if (got < n) _PyBytes_Resize(&bytes, got);
    return bytes;
}

static PyObject *poll_recv_into(PyPoll *self, PyObject *const *args, Py_ssize_t nargs) {
    int64_t deadline;
    Py_buffer view;
    if (need_args(nargs, 5, "recv_into") < 0) return NULL;
    Py_ssize_t n = PyNumber_AsSsize_t(args[1], PyExc_OverflowError);
    int flags = (int)PyLong_AsLong(args[2]);
    if (PyErr_Occurred() || io_deadline(args[3], &deadline) < 0) return NULL;
    if (PyObject_GetBuffer(args[0], &view, PyBUF_WRITABLE) < 0) return NULL;
    if (n < 0 || n > view.len) {
        PyErr_Format(PyExc_ValueError, n < 0 ? "negative buffersize in recv_into" : "buffer too small for requested bytes");
        PyBuffer_Release(&view);
        return NULL;
    }
    io a = {.buf = view.buf, .len = (size_t)(n ? n : view.len), .flags = flags};
    ssize_t got = do_io(self, POLL_READ, op_recv, &a, deadline, args[4] == Py_True && short_means_drained(flags));
    PyBuffer_Release(&view);
    return got < 0 ? NULL : PyLong_FromSsize_t(got);
}

static PyObject *send_some(PyPoll *self, PyObject *const *args, Py_ssize_t nargs, bool all) {
    int64_t deadline;
    Py_buffer view;
    if (need_args(nargs, 4, all ? "sendall" : "send") < 0) return NULL;
    int flags = (int)PyLong_AsLong(args[1]);
    if (PyErr_Occurred() || io_deadline(args[2], &deadline) < 0) return NULL;
    if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0) return NULL;
    Py_ssize_t sent = 0;
    do {
        io a = {.buf = (char *)view.buf + sent, .len = (size_t)(view.len - sent), .flags = flags};
        ssize_t n = do_io(self, POLL_WRITE, op_send, &a, deadline, args[3] == Py_True);
        if (n < 0) {
            PyBuffer_Release(&view);
            return NULL;
        }
        sent += n;
    } while (all && sent < view.len);
    PyBuffer_Release(&view);
    if (all) Py_RETURN_NONE;
    return PyLong_FromSsize_t(sent);
}

static PyObject *poll_send(PyPoll *self, PyObject *const *args, Py_ssize_t nargs) { return send_some(self, args, nargs, false); }
static PyObject *poll_sendall(PyPoll *self, PyObject *const *args, Py_ssize_t nargs) { return send_some(self, args, nargs, true); }

static PyObject *poll_accept(PyPoll *self, PyObject *timeout) {
    int64_t deadline;
    io a = {.len = 0};
    if (io_deadline(timeout, &deadline) < 0) return NULL;
    ssize_t fd = do_io(self, POLL_READ, op_accept, &a, deadline, false);
    return fd < 0 ? NULL : PyLong_FromSsize_t(fd);
}

/* For operations that Python does itself: waits until the fd is ready. */
static ssize_t op_probe(io *a) {
    struct pollfd p = {.fd = a->fd, .events = (short)a->flags};
    int r = poll(&p, 1, 0);
    if (r == 0) errno = EAGAIN;
    return r > 0 ? 0 : -1;
}

static PyObject *poll_wait(PyPoll *self, PyObject *const *args, Py_ssize_t nargs) {
    int64_t deadline;
    if (need_args(nargs, 2, "wait") < 0) return NULL;
    int mode = PyObject_IsTrue(args[0]) ? POLL_WRITE : POLL_READ;
    if (io_deadline(args[1], &deadline) < 0) return NULL;
    io a = {.flags = mode == POLL_READ ? POLLIN : POLLOUT};
    if (do_io(self, mode, op_probe, &a, deadline, false) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *poll_close(PyPoll *self, PyObject *Py_UNUSED(unused)) {
    if (atomic_exchange(&self->closed, true)) Py_RETURN_NONE;
    pd *d = self->d;
    if (d && self->epoch == load_relaxed(&epoch)) netpoll_close(d);
    /* System calls on other M's end within microseconds; only then may the number be
     * given to another file. */
    while (load_seq(&self->users)) sched_yield();
    Py_RETURN_NONE;
}

static PyObject *poll_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    int fd;
    if (kwargs || !PyArg_ParseTuple(args, "i:Poll", &fd)) return NULL;
    PyPoll *self = (PyPoll *)type->tp_alloc(type, 0);
    if (self) self->fd = fd;
    return (PyObject *)self;
}

static void poll_dealloc(PyPoll *self) {
    PyTypeObject *type = Py_TYPE(self);
    if (self->d && self->epoch == load_relaxed(&epoch)) {
        if (!load_relaxed(&self->closed)) netpoll_close(self->d);
        netpoll_free(self->d);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *door_netpoll_forked(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    atomic_fetch_add(&epoch, 1);
    Py_RETURN_NONE;
}

#define FAST(f) (PyCFunction)(void (*)(void))f
static PyMethodDef poll_methods[] = {
    {"recv", FAST(poll_recv), METH_FASTCALL, "recv(n, flags, timeout, stream) -> bytes"},
    {"recv_into", FAST(poll_recv_into), METH_FASTCALL, "recv_into(buffer, n, flags, timeout, stream) -> int"},
    {"send", FAST(poll_send), METH_FASTCALL, "send(data, flags, timeout, stream) -> int"},
    {"sendall", FAST(poll_sendall), METH_FASTCALL, "sendall(data, flags, timeout, stream)"},
    {"accept", (PyCFunction)poll_accept, METH_O, "accept(timeout) -> fd"},
    {"wait", FAST(poll_wait), METH_FASTCALL, "wait(for_writing, timeout)"},
    {"close", (PyCFunction)poll_close, METH_NOARGS, "close(): wakes the waiters; before the fd itself is closed"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot poll_slots[] = {
    {Py_tp_new, poll_new},
    {Py_tp_dealloc, poll_dealloc},
    {Py_tp_methods, poll_methods},
    {Py_tp_doc, "Poll(fd): non-blocking operations on a file descriptor that park the calling G.\n"
                "timeout: seconds, None: for ever, 0: BlockingIOError instead of waiting."},
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
    Poll_Type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &poll_spec, NULL);
    if (!Poll_Type || PyModule_AddObjectRef(module, "Poll", (PyObject *)Poll_Type) < 0) return -1;
    return PyModule_AddFunctions(module, methods);
}
