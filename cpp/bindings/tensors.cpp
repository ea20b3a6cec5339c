#include "tensors.hpp"

#include <utility>

namespace fusedstep {
namespace {

py::str interned(const std::string& text) {
    PyObject* name = py::str(text).release().ptr();
    PyUnicode_InternInPlace(&name);
    return py::reinterpret_steal<py::str>(name);
}

py::object attribute(PyObject* object, PyObject* name) {
    PyObject* found = PyObject_GetAttr(object, name);
    if (found == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(found);
}

// The C function behind an attribute of a type, null when the attribute is anything else.
PyGetSetDef* getter(PyObject* object, PyObject* name) {
    const auto found =
        py::reinterpret_steal<py::object>(PyObject_GetAttr(reinterpret_cast<PyObject*>(Py_TYPE(object)), name));
    if (!found) throw py::error_already_set();
    if (!Py_IS_TYPE(found.ptr(), &PyGetSetDescr_Type)) return nullptr;
    return reinterpret_cast<PyGetSetDescrObject*>(found.ptr())->d_getset;
}

const py::str& grad_attribute() {
    static const py::str* name = new py::str(interned("grad"));
    return *name;
}

}  // namespace

TensorModel::TensorModel(const std::string& rule, py::object check, py::object cross_check, TensorReader reader,
                         std::vector<std::string> watched)
    : Model(rule, std::move(check), std::move(cross_check), false, 0),
      reader_(std::move(reader)),
      watched_names_(std::move(watched)) {}

void TensorModel::watch(py::object param, py::object local, py::object inner, py::object state,
                        std::vector<std::string> names, py::object step, py::list scalars) {
    if (items_.size() >= engine_.tensors.size()) throw py::value_error("watch: needs an add() before");
    const std::string& path = paths_[items_.size()];
    Item item;
    dlpack::Tensor described;
    View view;
    if (!reader_.read(local.ptr(), described) || !to_format(described.dtype, item.format) ||
        !reader_.view(local.ptr(), view))
        throw py::type_error(param_name(path) + ": needs a dense tensor of a float dtype");
    item.complex = is_complex(described.dtype);
    item.place = place_of(view);
    item.grad_getter = getter(param.ptr(), grad_attribute().ptr());
    const ::fusedstep::Tensor& x = engine_.tensors[items_.size()];
    std::size_t elements = item.complex ? 2 : 1;
    for (std::int64_t d = 0; d < view.ndim; ++d) elements *= static_cast<std::size_t>(view.shape[d]);
    // With a float32 master, x.param is still the parameter's own memory.
    if (elements != x.size || (x.size != 0 && view.data != x.param.data))
        throw py::value_error(param_name(path) + ": is not the tensor that was added");
    item.param = std::move(param);
    item.local = std::move(local);
    item.inner = std::move(inner);
    for (const std::string& name : names) {
        py::str key = interned(name);
        py::object tensor = dict_item(state.ptr(), key.ptr());
        if (!tensor) throw py::value_error(param_name(path) + ": its state has no entry '" + name + "'");
        Entry kept{std::move(key), std::move(tensor), {}, {}};
        kept.local = kept.tensor;
        if (!item.inner.is_none() && py::hasattr(kept.tensor, item.inner)) kept.local = kept.tensor.attr(item.inner);
        View its;
        if (!reader_.view(kept.local.ptr(), its))
            throw py::type_error(param_name(path) + " " + name + ": needs a dense tensor");
        kept.place = place_of(its);
        std::size_t size = item.complex ? 2 : 1;
        for (std::int64_t d = 0; d < its.ndim; ++d) size *= static_cast<std::size_t>(its.shape[d]);
        if (size == x.size && size > 2 && !lies_as(item.place, its))
            throw py::value_error(param_name(path) + " " + name +
                                  ": lies otherwise in memory than its parameter, needs the same strides");
        item.entries.push_back(std::move(kept));
    }
    item.state = std::move(state);
    item.progress = Progress(reader_, step, scalars);
    every_.append(item.local);
    items_.push_back(std::move(item));
}

void TensorModel::finish() {
    if (items_.size() != engine_.tensors.size()) throw py::value_error("finish: needs a watch() for every add()");
    Model::finish();
    used_.clear();
    for (const Group& group : engine_.groups) used_.push_back(states_in_use(group));
    for (std::size_t i = 0; i < items_.size(); ++i) {
        if (has_states(engine_.tensors[i])) continue;
        items_[i].entries.clear();
        items_[i].state = py::none();
    }
    watched_.clear();
    for (const GroupSource& source : groups_) {
        watched_.emplace_back();
        for (const std::string& name : watched_names_) {
            py::str key = interned(name);
            py::object found = dict_item(source.dict.ptr(), key.ptr());
            watched_.back().emplace_back(std::move(key), std::move(found));
        }
    }
}

// Parameters may be without states as long as they have no gradient; a model without a state it needs is made anew.
void TensorModel::settle(std::size_t group) {
    if (!cross_check_.is_none()) cross_check_(group);
    groups_[group].unsettled = false;
}

unsigned TensorModel::states_in_use(const Group& group) {
    const RuleEntry& rule = active_rules()[group.rule];
    return rule.used_states(rule.variant(group.hypers.data(), 2));
}

// Whether it has all states that its group's options call for. States may be cleared while the model is made.
bool TensorModel::has_states(const ::fusedstep::Tensor& x) const {
    const unsigned used = used_[static_cast<std::size_t>(x.group)];
    for (std::size_t s = 0; s < x.states.size(); ++s)
        if ((used >> s & 1u) && x.states[s].data == nullptr && x.size != 0) return false;
    return true;
}

bool TensorModel::same_groups(py::list groups) const {
    if (groups.size() != groups_.size()) return false;
    static const py::str* params_key = new py::str(interned("params"));
    std::size_t i = 0;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
        PyObject* dict = groups_[g].dict.ptr();
        if (sequence_item(groups.ptr(), g).ptr() != dict) return false;
        for (const auto& [key, seen] : watched_[g])
            if (!dict_holds(dict, key.ptr(), seen)) return false;
        const py::object params = dict_item(dict, params_key->ptr());
        if (!params || !PyList_Check(params.ptr())) return false;
        const auto count = static_cast<std::size_t>(PyList_GET_SIZE(params.ptr()));
        if (count > items_.size() - i) return false;
        for (std::size_t k = 0; k < count; ++k, ++i)
            if (!sequence_item(params.ptr(), k).is(items_[i].param) || engine_.tensors[i].group != static_cast<int>(g))
                return false;
    }
    return i == items_.size();
}

TensorModel::Place TensorModel::place_of(const View& view) {
    const Place place{view.data, view.kind, dims_.size(), static_cast<std::size_t>(view.ndim)};
    dims_.insert(dims_.end(), view.shape, view.shape + view.ndim);
    dims_.insert(dims_.end(), view.strides, view.strides + view.ndim);
    return place;
}

// Whether a tensor has the same shape and strides. The stride of a dimension with one index means nothing.
bool TensorModel::lies_as(const Place& place, const View& view) const {
    if (static_cast<std::size_t>(view.ndim) != place.ndim) return false;
    const std::int64_t* shape = dims_.data() + place.dims;
    const std::int64_t* strides = shape + place.ndim;
    bool empty = false, same = true;
    for (std::size_t d = 0; d < place.ndim; ++d) {
        if (view.shape[d] != shape[d]) return false;
        empty = empty || shape[d] == 0;
        same = same && (shape[d] == 1 || view.strides[d] == strides[d]);
    }
    return same || empty;
}

bool TensorModel::is_at(const Place& place, PyObject* tensor) {
    View view;
    return reader_.view(tensor, view) && view.data == place.data && view.kind == place.kind && lies_as(place, view);
}

// Whether the parameter and its states are the tensors they were. Sets `ran` where Python code may have run: attributes
// of distributed tensors, methods of complex ones, and keys of a state that are no plain text.
bool TensorModel::same_tensors(const Item& item, bool& ran) const {
    ran = ran || item.complex || !item.inner.is_none() ||
          (exposed_ && !item.entries.empty() &&
           static_cast<std::size_t>(PyDict_GET_SIZE(item.state.ptr())) != item.entries.size());
    if (!item.inner.is_none() && attribute(item.param.ptr(), item.inner.ptr()).ptr() != item.local.ptr()) return false;
    if (item.complex && holds_others(item.local.ptr())) return false;
    if (!exposed_) return true;
    for (const Entry& kept : item.entries) {
        if (!dict_holds(item.state.ptr(), kept.key.ptr(), kept.tensor)) return false;
        if (kept.local.ptr() != kept.tensor.ptr() &&
            attribute(kept.tensor.ptr(), item.inner.ptr()).ptr() != kept.local.ptr())
            return false;
        if (item.complex && holds_others(kept.local.ptr())) return false;
    }
    return true;
}

// Whether they lie where they lay.
bool TensorModel::same_places(const Item& item) {
    if (!is_at(item.place, item.local.ptr())) return false;
    if (exposed_)
        for (const Entry& kept : item.entries)
            if (!is_at(kept.place, kept.local.ptr())) return false;
    return true;
}

py::object TensorModel::grad_of(const Item& item) {
    const PyGetSetDef* direct = item.grad_getter;
    if (direct == nullptr) return attribute(item.param.ptr(), grad_attribute().ptr());
    PyObject* found = direct->get(item.param.ptr(), direct->closure);
    if (found == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(found);
}

// Whether a gradient of another dtype than its parameter's can be taken, and in which format it is.
bool TensorModel::fits(const Item& item, Format& format) {
    dlpack::Tensor seen;
    return reader_.read(item.grad.ptr(), seen) && seen.device.type == dlpack::kCpu && to_format(seen.dtype, format) &&
           is_complex(seen.dtype) == item.complex && (format != Format::float64 || item.format == Format::float64);
}

// Takes the gradient of a tensor, held from here on.
TensorModel::Found TensorModel::take_gradient(Item& item, PyObject* substitute, bool& ran) {
    ran = ran || item.grad_getter == nullptr;
    item.grad = substitute != nullptr ? py::reinterpret_borrow<py::object>(substitute) : grad_of(item);
    if (item.grad.is_none()) return Found::none;
    if (!item.inner.is_none() && substitute == nullptr) {
        // A partial sum has the shape of the whole: how a distributed gradient is laid out must agree as well.
        static const py::str* placements = new py::str(interned("placements"));
        if (!py::hasattr(item.grad, *placements) ||
            !attribute(item.grad.ptr(), placements->ptr()).equal(attribute(item.param.ptr(), placements->ptr())))
            return Found::other;
        PyObject* inner = PyObject_GetAttr(item.grad.ptr(), item.inner.ptr());
        if (inner == nullptr) {
            PyErr_Clear();
            return Found::other;
        }
        item.grad = py::reinterpret_steal<py::object>(inner);
    }
    if (item.complex && holds_others(item.grad.ptr())) return Found::other;
    return Found::usable;
}

// Gives the engine the gradient of tensor i, if it lies as its parameter does.
TensorModel::Found TensorModel::place_gradient(std::size_t i, bool& ran) {
    Item& item = items_[i];
    ::fusedstep::Tensor& x = engine_.tensors[i];
    View view;
    if (!reader_.view(item.grad.ptr(), view) || !lies_as(item.place, view)) return Found::other;
    Format format = item.format;
    if (view.kind != item.place.kind && !fits(item, format)) return Found::other;
    // A call into the library costs as much as all the rest: only for another gradient, or one that lies elsewhere, as
    // storage that is resized does.
    if (!refers_to(item.asked, item.grad.ptr()) || item.asked_at != view.data) {
        ran = ran || !reader_.is_plain(item.grad.ptr());
        item.asked = py::object();
        if (is_negative(item.grad.ptr())) return Found::other;
        if (x.size != 0 && !in_storage(item.grad.ptr(), view.data, x.size * item_size(format)))
            throw py::value_error(grad_name(i) +
                                  ": its memory was freed or resized, and holds fewer bytes than its elements need");
        item.asked = reference_to(item.grad.ptr());
        item.asked_at = view.data;
    }
    x.grad = {x.size == 0 ? static_cast<void*>(item.grad.ptr()) : view.data, nullptr, format};
    return Found::usable;
}

void TensorModel::check_after_waiting() {
    for (std::size_t i = 0; i < items_.size(); ++i) {
        const ::fusedstep::Tensor& x = engine_.tensors[i];
        if (x.grad.data == nullptr || x.size == 0) continue;
        View view;
        const Item& item = items_[i];
        if (!same_places(item) || !reader_.view(item.grad.ptr(), view) || view.data != x.grad.data)
            throw std::runtime_error(param_name(paths_[i]) +
                                     ": it, its gradient or a state was moved while a step was taken");
    }
}

void TensorModel::expose_states(bool exposed) {
    exposed_ = exposed;
    for (std::size_t i = 0; exposed && i < items_.size(); ++i) items_[i].progress.write(engine_.tensors[i]);
}

py::object TensorModel::step(py::list groups, double grad_scale, py::dict substitutes, std::ptrdiff_t only) {
    const Claim::Guard claimed(*claim_, "step()", true);
    if (only >= static_cast<std::ptrdiff_t>(items_.size())) return py::none();
    const std::size_t first = only < 0 ? 0 : static_cast<std::size_t>(only);
    const std::size_t last_one = only < 0 ? items_.size() : first + 1;
    struct Release {  // gradients are the caller's again, however the step ends
        std::vector<Item>& items;
        std::size_t first, last;
        ~Release() {
            for (std::size_t i = first; i < last; ++i) items[i].grad = py::object();
        }
    } release{items_, first, last_one};

    if (!same_groups(groups)) return py::none();
    begin(grad_scale);
    for (std::size_t g = 0; g < used_.size(); ++g)
        if (states_in_use(engine_.groups[g]) != used_[g]) return py::none();

    // Python code may free or move tensors that were read before. Where it may have run, all are read again.
    for (::fusedstep::Tensor& x : engine_.tensors) x.grad.data = nullptr;
    const bool some = !substitutes.empty();
    py::list others;
    bool ran = true;
    for (int look = 0; ran; ++look) {
        if (look == 4) throw std::runtime_error("step(): tensors are being moved while a step is taken");
        ran = false;
        if (!others.empty()) others = py::list();
        for (std::size_t i = first; i < last_one; ++i) {
            Item& item = items_[i];
            if (look == 0) {
                const py::object substitute = some ? dict_item(substitutes.ptr(), py::int_(i).ptr()) : py::object();
                if (!same_tensors(item, ran)) return py::none();
                item.found = take_gradient(item, substitute.ptr(), ran);
            }
            if (item.found == Found::usable) item.found = place_gradient(i, ran);
            if (!same_places(item)) return py::none();
            if (item.found == Found::none) continue;
            if (item.state.is_none()) return py::none();
            if (item.found == Found::other)
                others.append(i);
            else if (!item.progress.read(engine_.tensors[i], exposed_))
                throw py::value_error(param_name(paths_[i]) + " step: got " +
                                      py::str(py::float_(item.progress.seen())).cast<std::string>() +
                                      ", needs a whole number of at least 0");
        }
    }
    if (!others.empty()) return std::move(others);

    bound_current_ = false;
    only_ = only;
    const bool taken = run();
    if (taken) {
        for (std::size_t i = first; i < last_one; ++i)
            if (engine_.tensors[i].grad.data != nullptr) items_[i].progress.went_on(engine_.tensors[i], exposed_);
        report_changes();
    }
    return py::bool_(taken);
}

int TensorModel::traverse(visitproc visit, void* arg) const {
    for (const Item& item : items_) {
        for (const py::object* object : {&item.param, &item.local, &item.state, &item.grad}) Py_VISIT(object->ptr());
        for (const Entry& kept : item.entries) {
            Py_VISIT(kept.tensor.ptr());
            Py_VISIT(kept.local.ptr());
        }
    }
    for (const auto& group : watched_)
        for (const auto& [key, seen] : group) Py_VISIT(seen.ptr());
    Py_VISIT(every_.ptr());
    Py_VISIT(changed.ptr());
    return Model::traverse(visit, arg);
}

void TensorModel::clear() {
    const auto items = std::exchange(items_, {});
    const auto watched = std::exchange(watched_, {});
    const py::list every = std::exchange(every_, py::list());
    const py::object called = std::exchange(changed, py::none());
    Model::clear();
}

void TensorModel::report_changes() {
    if (changed.is_none()) return;
    std::size_t active = 0;
    for (const ::fusedstep::Tensor& x : engine_.tensors) active += x.grad.data != nullptr;
    if (active == items_.size()) {
        changed(every_);
        return;
    }
    py::list some;
    for (const std::size_t i : stepped()) some.append(items_[i].local);
    changed(some);
}

std::vector<std::size_t> TensorModel::stepped() const {
    std::vector<std::size_t> out;
    for (std::size_t i = 0; i < engine_.tensors.size(); ++i)
        if (engine_.tensors[i].grad.data != nullptr) out.push_back(i);
    return out;
}

}  // namespace fusedstep
