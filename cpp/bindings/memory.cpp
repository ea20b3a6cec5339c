#include "memory.hpp"

#include <algorithm>

namespace fusedstep {

void WrittenMemory::add(const py::object& object, const Array& array, const std::string& name, bool shape) {
    add(array.data, array.size * item_size(array.format), name);
    owned_.push_back(object);
    if (!py::isinstance<py::array>(object)) return;
    const Seen seen(object.ptr());
    if (!seen.is(array.data, array.size)) throw py::value_error(changed_text(name));
    checked_.push_back({object.ptr(), seen});
    if (!shape) return;
    const auto* now = py::detail::array_proxy(object.ptr());
    shaped_.push_back({object.ptr(), {now->dimensions, now->dimensions + now->nd}, name});
}

void WrittenMemory::add(const void* data, std::size_t bytes, const std::string& name) {
    const char* begin = static_cast<const char*>(data);
    extents_.push_back({begin, begin + bytes, name});
}

void WrittenMemory::finish() {
    check_overlap(extents_);
    extents_.erase(std::remove_if(extents_.begin(), extents_.end(), [](const Extent& e) { return e.begin == e.end; }),
                   extents_.end());
    std::sort(extents_.begin(), extents_.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
}

void WrittenMemory::check_still_there() const {
    for (const Checked& c : checked_)
        if (!c.seen.holds(c.object, true))
            throw py::value_error(
                "params: an array of this optimizer was made read-only, or its memory, size or dtype was changed in "
                "place, since the optimizer was made; make a new one");
    for (const Shaped& s : shaped_) {
        const auto* now = py::detail::array_proxy(s.object);
        if (std::equal(s.shape.begin(), s.shape.end(), now->dimensions, now->dimensions + now->nd)) continue;
        py::tuple made(s.shape.size());
        for (std::size_t i = 0; i < s.shape.size(); ++i) made[i] = s.shape[i];
        throw py::value_error(s.name + ": got shape " + shape_text(s.object) + " now, needs " +
                              std::string(py::str(made)) +
                              " as when the optimizer was made; set it back, or make a new one");
    }
}

const Extent* WrittenMemory::overlapping(const void* data, std::size_t bytes) const {
    const char* begin = static_cast<const char*>(data);
    const auto after = std::upper_bound(extents_.begin(), extents_.end(), begin,
                                        [](const char* value, const Extent& e) { return value < e.end; });
    return after != extents_.end() && after->begin < begin + bytes ? &*after : nullptr;
}

int WrittenMemory::traverse(visitproc visit, void* arg) const {
    for (const py::object& object : owned_) Py_VISIT(object.ptr());
    return 0;
}

}  // namespace fusedstep
