#include "tree.hpp"

#include "arrays.hpp"
#include "items.hpp"

namespace fusedstep {
namespace {

constexpr int kDeepest = 200;

// ["W1"] or [0]: as Python would print the key, but with double quotes.
std::string step_into(py::handle key) {
    if (py::isinstance<py::str>(key)) return "[\"" + utf8(key) + "\"]";
    return "[" + utf8(py::repr(key)) + "]";
}

// W, b
std::string fields_text(const std::vector<py::object>& names) {
    std::string text;
    for (const py::object& name : names) text += (text.empty() ? "" : ", ") + utf8(name);
    return text;
}

bool is_sequence(PyObject* object) { return PyList_Check(object) || PyTuple_Check(object); }

}  // namespace

std::string utf8(py::handle text) {
    const auto bytes =
        py::reinterpret_steal<py::bytes>(PyUnicode_AsEncodedString(text.ptr(), "utf-8", "backslashreplace"));
    if (!bytes) throw py::error_already_set();
    return bytes;
}

Tree::Tree(py::handle object, std::string name, py::object expand)
    : name_(std::move(name)), expand_(std::move(expand)) {
    root_ = grow(object, "", 0);
}

// A mapping as a dict, another container as a pair of tuples, None for anything else.
py::object Tree::expanded(PyObject* object) const {
    if (expand_.is_none() || object == Py_None || is_array(object)) return py::none();
    return expand_(py::handle(object));
}

Tree::Node Tree::grow(py::handle object, const std::string& path, int depth) {
    if (depth > kDeepest) throw py::value_error(name_ + path + ": nested more than 200 deep");
    Node node;
    if (object.is_none() && depth > 0) {
        node.kind = Kind::none;
        node.path = path;
        return node;
    }
    py::object inside = py::none();
    if (!PyDict_Check(object.ptr()) && !is_sequence(object.ptr())) inside = expanded(object.ptr());
    if (PyDict_Check(object.ptr()) || PyDict_Check(inside.ptr())) {
        node.kind = Kind::dict;
        // A copy that nobody can change: naming a key may run Python code, which finds lists through the collector.
        const auto listed =
            py::reinterpret_steal<py::list>(PyDict_Items(inside.is_none() ? object.ptr() : inside.ptr()));
        if (!listed) throw py::error_already_set();
        for (const py::handle item : py::tuple(listed)) {
            const py::handle key = PyTuple_GET_ITEM(item.ptr(), 0), value = PyTuple_GET_ITEM(item.ptr(), 1);
            node.keys.push_back(py::reinterpret_borrow<py::object>(key));
            node.children.push_back(grow(value, path + step_into(key), depth + 1));
        }
    } else if (is_sequence(object.ptr())) {
        node.kind = Kind::sequence;
        const auto items = py::reinterpret_steal<py::tuple>(PySequence_Tuple(object.ptr()));
        if (!items) throw py::error_already_set();
        std::size_t i = 0;
        for (const py::handle item : items)
            node.children.push_back(grow(item, path + "[" + std::to_string(i++) + "]", depth + 1));
    } else if (!inside.is_none()) {
        node.kind = Kind::object;
        const auto [names, entries] = inside.cast<std::pair<py::tuple, py::tuple>>();
        for (std::size_t i = 0; i < names.size(); ++i) {
            node.keys.push_back(names[i]);
            node.children.push_back(grow(entries[i], path + "." + utf8(names[i]), depth + 1));
        }
    } else {
        leaves_.push_back(py::reinterpret_borrow<py::object>(object));
        paths_.push_back(path);
    }
    return node;
}

void Tree::flatten(PyObject* object, const char* name, std::vector<py::object>& out) const {
    let_go(out);
    std::size_t next = 0;
    walk(root_, object, name, next, out);
}

// None for a branch stands for None in each of its leaves.
std::size_t Tree::skip(const Node& node, std::size_t next, std::vector<py::object>& out) const {
    if (node.kind == Kind::leaf) {
        out.push_back(py::none());
        return next + 1;
    }
    for (const Node& child : node.children) next = skip(child, next, out);
    return next;
}

void Tree::walk(const Node& node, PyObject* object, const char* name, std::size_t& next,
                std::vector<py::object>& out) const {
    if (node.kind == Kind::leaf) {
        out.push_back(py::reinterpret_borrow<py::object>(object));
        ++next;
        return;
    }
    if (object == Py_None) {
        next = skip(node, next, out);
        return;
    }
    if (node.kind == Kind::none)
        throw py::type_error(name + node.path + ": got " + kind_text(object) + ", needs None, as " + name_ + node.path +
                             " is");
    const std::size_t n = node.children.size();
    if (node.kind == Kind::object) {
        const py::object inside = expanded(object);
        if (!PyTuple_Check(inside.ptr())) mismatch(object, name, next, "an object with fields");
        const auto [names, entries] = inside.cast<std::pair<py::tuple, py::tuple>>();
        bool same = names.size() == n;
        for (std::size_t i = 0; same && i < n; ++i) same = node.keys[i].equal(py::object(names[i]));
        if (!same) mismatch(object, name, next, "an object with the fields " + fields_text(node.keys));
        for (std::size_t i = 0; i < n; ++i) walk(node.children[i], py::object(entries[i]).ptr(), name, next, out);
        return;
    }
    if (node.kind == Kind::dict) {
        py::object mapping;
        if (!PyDict_Check(object)) {
            mapping = expanded(object);
            if (!PyDict_Check(mapping.ptr())) mismatch(object, name, next, "a dict");
            object = mapping.ptr();
        }
        for (std::size_t i = 0; i < n; ++i) {
            const py::object child = dict_item(object, node.keys[i].ptr());
            if (!child)
                throw py::value_error(std::string(name) + ": got no entry " + step_into(node.keys[i]) +
                                      ", needs the keys of " + name_);
            walk(node.children[i], child.ptr(), name, next, out);
        }
        if (static_cast<std::size_t>(PyDict_Size(object)) != n) {
            const auto listed = py::reinterpret_steal<py::list>(PyDict_Keys(object));
            if (!listed) throw py::error_already_set();
            const py::tuple given(listed);  // comparing keys may run Python code
            py::set known;
            for (const py::object& key : node.keys) known.add(key);
            for (const py::handle found : given) {
                if (!known.contains(found))
                    throw py::value_error(std::string(name) + ": got an entry " + step_into(found) + " that " + name_ +
                                          " does not have, needs the keys of " + name_);
            }
        }
        return;
    }
    if (!is_sequence(object)) mismatch(object, name, next, "a list or tuple");
    const auto length = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(object));
    if (length != n) mismatch(object, name, next, std::to_string(n) + " entries, got " + std::to_string(length));
    for (std::size_t i = 0; i < n; ++i) {
        // Comparing keys further in may run Python code, and that may shorten a list.
        const py::object child = sequence_item(object, i);
        if (!child) throw py::value_error(changed_text(name, "a sequence"));
        walk(node.children[i], child.ptr(), name, next, out);
    }
}

int Tree::traverse(visitproc visit, void* arg) const {
    for (const py::object& leaf : leaves_) Py_VISIT(leaf.ptr());
    return 0;
}

void Tree::clear() {
    const std::vector<py::object> released = std::move(leaves_);
    leaves_.clear();
}

void Tree::mismatch(PyObject* object, const char* name, std::size_t leaf, const std::string& needs) const {
    const std::string near = leaf < paths_.size() ? " at or above " + std::string(name) + paths_[leaf] : "";
    const std::string text = name + std::string(": got ") + kind_text(object) + near + ", needs the structure of " +
                             name_ + ", there " + needs;
    if (is_sequence(object) || PyDict_Check(object)) throw py::value_error(text);
    throw py::type_error(text);
}

}  // namespace fusedstep
