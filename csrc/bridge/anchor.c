/* anchor.c: keeps alive what only a parked G's frames hold, on free-threaded 3.14.
 *
 * That interpreter's frames may hold module-level functions, classes and code by *deferred*
 * references: uncounted, credited by the collector when it walks the stacks of live
 * threads. It doesn't know the frames of a suspended greenlet (greenlet itself tells it
 * from 3.15 on), so what only they hold would be freed while a G is parked.
 *
 * The anchor is one tracked object that nobody but this file refers to. Its tp_traverse,
 * called while the world is stopped, walks the frames of every parked G and visits the
 * deferred references. Objects held by counted references need nothing: the collector
 * sees a count that it can't explain and leaves them alone.
 *
 * The collector first subtracts internal references from the counts (visit_decref). A
 * deferred reference was never counted, so it must not be subtracted there; CPython's own
 * _PyGC_VisitStackRef makes the same exception. visit_decref is static; it is recognised as
 * the first visitor that ever comes, in a collection that anchor_init forces. Should it be
 * taken for another, nothing breaks: the anchor is a root, and what it visits while the
 * collector marks stays alive whatever its count. */
#include <patchlevel.h>
#include <pyconfig.h>

#if defined(Py_GIL_DISABLED) && PY_VERSION_HEX < 0x030F0000
#define NEEDS_ANCHOR
#define Py_BUILD_CORE 1
#endif

#include "bridge.h"

#ifdef NEEDS_ANCHOR
#include "internal/pycore_frame.h"
#include "internal/pycore_gc.h"
#include "internal/pycore_interpframe.h"
#include "internal/pycore_stackref.h"
#include "internal/pycore_tstate.h"

static PyObject *anchor;
static _Atomic uint64_t visited_frames;

static void visit_ref(_PyStackRef ref, visitproc visit, void *arg) {
    if (PyStackRef_IsNullOrInt(ref) || !PyStackRef_IsDeferred(ref)) return;
    visit(PyStackRef_AsPyObjectBorrow(ref), arg);
}

static void visit_frames(_PyInterpreterFrame *f, visitproc visit, void *arg) {
    for (; f; f = f->previous) {
        if (f->owner >= FRAME_OWNED_BY_INTERPRETER || !f->stackpointer) continue;
        count_add(&visited_frames, 1);
        visit_ref(f->f_executable, visit, arg);
        visit_ref(f->f_funcobj, visit, arg);
        for (_PyStackRef *ref = f->localsplus; ref < f->stackpointer; ref++) visit_ref(*ref, visit, arg);
    }
}

static int anchor_traverse(PyObject *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    static visitproc decref; /* the first visitor that ever comes is the collector's visit_decref */
    if (!decref) decref = visit;
    if (visit == decref) return 0;
    uint32_t n = g_slots();
    for (uint32_t i = 0; i < n; i++) {
        g *gp = g_at(i);
        if (gp->frame) visit_frames(gp->frame, visit, arg);
    }
    return 0;
}

static void anchor_dealloc(PyObject *self) { /* never: module state holds it for good */
    PyObject_GC_UnTrack(self);
    Py_TYPE(self)->tp_free(self);
}

static PyType_Slot anchor_slots[] = {
    {Py_tp_traverse, anchor_traverse}, {Py_tp_dealloc, anchor_dealloc}, {0, NULL}};
static PyType_Spec anchor_spec = {
    .name = "gmpy_rt._door.Anchor",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = anchor_slots,
};

int anchor_init(PyObject *module) {
    (void)module;
    PyTypeObject *type = (PyTypeObject *)PyType_FromSpec(&anchor_spec);
    if (!type) return -1;
    anchor = type->tp_alloc(type, 0);
    Py_DECREF(type);
    if (!anchor) return -1;
    PyGC_Collect(); /* teaches anchor_traverse which visitor subtracts */
    return 0;
}
#else
int anchor_init(PyObject *module) {
    (void)module;
    return 0;
}
#endif
