// Python objects: entries of a caller's containers with a reference of their own, as another thread may take them out
// at any moment; names; weak references.
#pragma once
#include <pybind11/pybind11.h>

#include <string>
#include <utility>
#include <vector>

namespace fusedstep {

namespace py = pybind11;

// Null in the place of None.
inline py::object or_null(const py::object& object) { return object.is_none() ? py::object() : object; }

// Null when the dict has no such key.
inline py::object dict_item(PyObject* dict, PyObject* key) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject* found = nullptr;
    if (PyDict_GetItemRef(dict, key, &found) < 0) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(found);
#else
    PyObject* found = PyDict_GetItemWithError(dict, key);
    if (found == nullptr && PyErr_Occurred()) throw py::error_already_set();
    return py::reinterpret_borrow<py::object>(found);
#endif
}

// Whether a key's entry is this very object: asked many times a step.
inline bool dict_holds(PyObject* dict, PyObject* key, const py::object& object) {
#if PY_VERSION_HEX >= 0x030D0000
    return dict_item(dict, key).is(object);
#else
    PyObject* const found = PyDict_GetItemWithError(dict, key);
    if (found == nullptr && PyErr_Occurred()) throw py::error_already_set();
    return found == object.ptr();
#endif
}

// Of a list or tuple. Null when it is not so long, or no longer.
inline py::object sequence_item(PyObject* sequence, std::size_t i) {
    const auto index = static_cast<Py_ssize_t>(i);
#if PY_VERSION_HEX >= 0x030D0000
    if (PyList_Check(sequence)) {
        PyObject* found = PyList_GetItemRef(sequence, index);
        if (found == nullptr) PyErr_Clear();
        return py::reinterpret_steal<py::object>(found);
    }
#endif
    if (index >= PySequence_Fast_GET_SIZE(sequence)) return {};
    return py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(sequence, index));
}

// Text for keys of dicts and names of attributes.
inline py::str interned(const std::string& text) {
    PyObject* name = py::str(text).release().ptr();
    PyUnicode_InternInPlace(&name);
    return py::reinterpret_steal<py::str>(name);
}

inline py::object attribute_of(PyObject* object, PyObject* name) {
    PyObject* found = PyObject_GetAttr(object, name);
    if (found == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(found);
}

// A weak reference; none where an object allows none.
inline py::object reference_to(PyObject* object) {
    PyObject* made = PyWeakref_NewRef(object, nullptr);
    if (made == nullptr) PyErr_Clear();
    return py::reinterpret_steal<py::object>(made);
}

// Whether a weak reference is to this object.
inline bool refers_to(const py::object& reference, PyObject* object) {
    if (!reference) return false;
#if PY_VERSION_HEX >= 0x030D0000
    PyObject* found = nullptr;
    const bool there = PyWeakref_GetRef(reference.ptr(), &found) > 0;
    return there && py::reinterpret_steal<py::object>(found).is(py::handle(object));
#else
    return PyWeakref_GET_OBJECT(reference.ptr()) == object;
#endif
}

// Empties it, and keeps its memory. Letting go of an object may run the garbage collector, which must not find one that
// is gone already.
inline void let_go(std::vector<py::object>& objects) {
    for (py::object& object : objects) const py::object gone = std::move(object);
    objects.clear();
}

}  // namespace fusedstep
