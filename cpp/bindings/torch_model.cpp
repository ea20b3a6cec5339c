#include "torch_model.hpp"

#include <algorithm>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "items.hpp"

namespace fusedstep {

TorchModel::TorchModel(py::object model, TensorReader reader, std::vector<std::string> watched)
    : owner_(std::move(model)),
      model_(owner_.cast<Model&>()),
      places_(std::move(reader)),
      watched_names_(std::move(watched)) {
    // Parameters may be without states as long as they have no gradient; a model without a state it needs is made anew.
    model_.groups.needs_states = model_.groups.needs_average = false;
}

void TorchModel::watch(py::object param, py::object local, py::object inner, py::object state,
                       std::vector<std::string> names, py::object step, py::list scalars, py::object direction) {
    if (items_.size() >= model_.size()) throw py::value_error("watch: needs an add() before");
    const std::string name = model_.names.param(items_.size());
    const Tensor& x = model_.engine.tensors[items_.size()];
    TensorReader& reader = places_.reader;
    dlpack::Tensor described;
    View view;
    TensorParam kept{std::move(param), std::move(local), std::move(inner), {}};
    if (!reader.read(kept.local.ptr(), described) || !to_format(described.dtype, kept.format) ||
        !reader.view(kept.local.ptr(), view))
        throw py::type_error(name + ": needs a dense tensor of a float dtype");
    kept.complex = is_complex(described.dtype);
    kept.place = places_.add(view);
    const auto elements = [&kept](const View& seen) {
        std::size_t count = kept.complex ? 2 : 1;
        for (std::int64_t d = 0; d < seen.ndim; ++d) count *= static_cast<std::size_t>(seen.shape[d]);
        return count;
    };
    // With a float32 master, x.param is still the parameter's own memory.
    if (elements(view) != x.size || (x.size != 0 && view.data != x.param.data))
        throw py::value_error(name + ": is not the tensor that was added");
    TensorGradient grad(kept.param);
    Item item{std::move(kept), std::move(grad)};
    for (const std::string& key : names) {
        py::object tensor = dict_item(state.ptr(), interned(key).ptr());
        if (!tensor) throw py::value_error(name + ": got no state '" + key + "', needs one");
        Entry entry{interned(key), tensor, tensor, {}};
        const py::object& within = item.param.inner;
        if (!within.is_none() && py::hasattr(tensor, within)) entry.local = tensor.attr(within);
        View its;
        if (!reader.view(entry.local.ptr(), its)) throw py::type_error(name + " " + key + ": needs a dense tensor");
        entry.place = places_.add(its);
        const std::size_t size = elements(its);
        // A state with a number for each block of elements has one axis, and may have as many numbers as elements.
        if (size == x.size && size > 2 && its.ndim == view.ndim && !places_.same_layout(item.param.place, its))
            throw py::value_error(name + " " + key +
                                  ": lies otherwise in memory than its parameter, needs the same strides");
        item.entries.push_back(std::move(entry));
    }
    if (!direction.is_none()) {
        View its;
        if (!reader.view(direction.ptr(), its) || (x.size != 0 && its.data != x.direction.data))
            throw py::value_error(name + " direction: is not the tensor that was added");
        item.direction_place = places_.add(its);
        item.direction = std::move(direction);
    }
    item.state = std::move(state);
    item.progress = Progress(reader, step, scalars);
    item.progress.add_to(model_.memory, model_.groups.rule(x.group), name);
    every_.append(item.param.local);
    items_.push_back(std::move(item));
}

void TorchModel::finish() {
    if (items_.size() != model_.size()) throw py::value_error("finish: needs a watch() for every add()");
    model_.finish();
    used_.clear();
    for (const Group& group : model_.engine.groups) used_.push_back(states_in_use(group));
    for (std::size_t i = 0; i < items_.size(); ++i) {
        if (has_states(model_.engine.tensors[i])) continue;
        items_[i].entries.clear();
        items_[i].state = py::none();
    }
    watched_.clear();
    for (std::size_t g = 0; g < used_.size(); ++g) {
        watched_.emplace_back();
        for (const std::string& name : watched_names_) {
            py::str key = interned(name);
            py::object found = dict_item(model_.groups.dict(g), key.ptr());
            watched_.back().emplace_back(std::move(key), std::move(found));
        }
    }
}

unsigned TorchModel::states_in_use(const Group& group) {
    const RuleEntry& rule = active_rules()[group.rule];
    return rule.used_states(rule.variant(group.hypers.data(), 2));
}

// Whether it has all states that its group's options call for. States may be cleared while the model is made.
bool TorchModel::has_states(const Tensor& x) const {
    if (x.size == 0) return true;
    const unsigned used = used_[static_cast<std::size_t>(x.group)];
    for (int s = 0; s < kMaxStates; ++s)
        if ((used >> s & 1u) && x.lacks_state(s)) return false;
    return true;
}

bool TorchModel::same_groups(py::list groups) const {
    if (groups.size() != watched_.size() || model_.groups.size() != watched_.size()) return false;
    static const py::str* params_key = new py::str(interned("params"));
    std::size_t i = 0;
    for (std::size_t g = 0; g < watched_.size(); ++g) {
        PyObject* dict = model_.groups.dict(g);
        if (sequence_item(groups.ptr(), g).ptr() != dict) return false;
        for (const auto& [key, seen] : watched_[g])
            if (!dict_holds(dict, key.ptr(), seen)) return false;
        const py::object params = dict_item(dict, params_key->ptr());
        if (!params || !PyList_Check(params.ptr())) return false;
        const auto count = static_cast<std::size_t>(PyList_GET_SIZE(params.ptr()));
        if (count > items_.size() - i) return false;
        for (std::size_t k = 0; k < count; ++k, ++i)
            if (!sequence_item(params.ptr(), k).is(items_[i].param.param) ||
                model_.engine.tensors[i].group != static_cast<int>(g))
                return false;
    }
    return i == items_.size() && i == model_.size();
}

// Whether the parameter and its states are the tensors they were. Sets `ran` where Python code may have run: attributes
// of distributed tensors, methods of complex ones, and keys of a state that are no plain text.
bool TorchModel::same_tensors(const Item& item, bool& ran) const {
    const TensorParam& param = item.param;
    ran = ran || param.complex || !param.inner.is_none() ||
          (exposed_ && !item.entries.empty() &&
           static_cast<std::size_t>(PyDict_GET_SIZE(item.state.ptr())) != item.entries.size());
    if (!param.inner.is_none() && attribute_of(param.param.ptr(), param.inner.ptr()).ptr() != param.local.ptr())
        return false;
    if (param.complex && holds_others(param.local.ptr())) return false;
    if (!exposed_) return true;
    for (const Entry& kept : item.entries) {
        if (!dict_holds(item.state.ptr(), kept.key.ptr(), kept.tensor)) return false;
        if (kept.local.ptr() != kept.tensor.ptr() &&
            attribute_of(kept.tensor.ptr(), param.inner.ptr()).ptr() != kept.local.ptr())
            return false;
        if (param.complex && holds_others(kept.local.ptr())) return false;
    }
    return true;
}

// Whether they lie where they lay.
bool TorchModel::same_places(const Item& item) {
    if (!places_.holds(item.param.place, item.param.local.ptr())) return false;
    if (exposed_)
        for (const Entry& kept : item.entries)
            if (!places_.holds(kept.place, kept.local.ptr())) return false;
    return item.direction.is_none() || places_.holds(item.direction_place, item.direction.ptr());
}

// Whether all that a step reads and writes is still in its storage, which may have been freed and made anew at the same
// address, with fewer bytes.
bool TorchModel::in_storages(const Item& item) {
    const auto there = [this](PyObject* tensor) {
        dlpack::Tensor seen;
        if (!places_.reader.read(tensor, seen)) return false;
        std::size_t bytes = seen.dtype.bits / 8u;
        for (std::int32_t d = 0; d < seen.ndim; ++d) bytes *= static_cast<std::size_t>(seen.shape[d]);
        return bytes == 0 || in_storage(tensor, address(seen), bytes);
    };
    if (!there(item.param.local.ptr()) || !there(item.grad.tensor().ptr())) return false;
    for (const Entry& kept : item.entries)
        if (!there(kept.local.ptr())) return false;
    return item.direction.is_none() || there(item.direction.ptr());
}

// Other threads ran while this one waited for other processes, or code of others in a product.
void TorchModel::check_places() {
    const TensorReader::Quiet quiet(places_.reader);
    for (std::size_t i = 0; i < items_.size(); ++i) {
        const Tensor& x = model_.engine.tensors[i];
        if (x.grad.data != nullptr && x.size != 0 &&
            !(in_storages(items_[i]) && same_places(items_[i]) && items_[i].grad.lies_at(places_, x.grad.data)))
            throw std::runtime_error(model_.names.param(i) +
                                     ": it, its gradient or a state was moved while a step was taken");
    }
}

void TorchModel::expose_states(bool exposed) {
    exposed_ = exposed;
    const std::size_t count = exposed ? std::min(items_.size(), model_.size()) : 0;
    for (std::size_t i = 0; i < count; ++i) items_[i].progress.write(model_.engine.tensors[i]);
}

StepAnswer TorchModel::step(py::list groups, double grad_scale, py::dict substitutes, std::ptrdiff_t only) {
    const Claim::Guard claimed(*model_.claim(), "step()", true);
    if (only >= static_cast<std::ptrdiff_t>(items_.size())) return {StepAnswer::stale};
    const std::size_t first = only < 0 ? 0 : static_cast<std::size_t>(only);
    const std::size_t last = only < 0 ? items_.size() : first + 1;
    struct Release {  // gradients are the caller's again, however the step ends
        std::vector<Item>& items;
        std::size_t first, last;
        ~Release() {
            for (std::size_t i = first; i < last; ++i) items[i].grad.release();
        }
    } release{items_, first, last};

    if (!same_groups(groups)) return {StepAnswer::stale};
    model_.begin(grad_scale);
    std::vector<Tensor>& tensors = model_.engine.tensors;
    for (std::size_t g = 0; g < used_.size(); ++g)
        if (states_in_use(model_.engine.groups[g]) != used_[g]) return {StepAnswer::stale};

    // Python code may free or move tensors that were read before. Where it may have run, all are read again.
    for (Tensor& x : tensors) x.grad.data = nullptr;
    const bool some = !substitutes.empty();
    StepAnswer copies{StepAnswer::copies};
    bool ran = true;
    for (int look = 0; ran; ++look) {
        if (look == 4) throw std::runtime_error("step(): tensors are being moved while a step is taken");
        // Gradients are read under it, and new ones checked. Code that enters one meanwhile counts as code that ran.
        const bool mode = places_.reader.has_mode();
        ran = look == 0 && mode;
        copies.which.clear();
        for (std::size_t i = first; i < last; ++i) {
            Item& item = items_[i];
            if (look == 0) {
                const py::object substitute = some ? dict_item(substitutes.ptr(), py::int_(i).ptr()) : py::object();
                if (!same_tensors(item, ran)) return {StepAnswer::stale};
                item.found = item.grad.take(item.param, substitute.ptr(), ran);
            }
            if (item.found == Found::usable) item.found = item.grad.place(item.param, places_, tensors[i], mode, ran);
            if (!same_places(item)) return {StepAnswer::stale};
            const bool shares = only < 0 && shares_scalars(i);
            if (item.found == Found::none && !shares) continue;
            if (item.found != Found::none && item.state.is_none()) return {StepAnswer::stale};
            if (item.found == Found::other)
                copies.which.push_back(i);
            else if (!item.progress.read(tensors[i], exposed_))
                throw py::value_error(model_.names.param(i) + " step: got " +
                                      py::str(py::float_(item.progress.seen())).cast<std::string>() +
                                      ", needs a whole number of at least 0");
        }
    }
    if (!copies.which.empty()) return copies;

    model_.gradients.use_others();
    if (!model_.run([this] { check_places(); }, only)) return {StepAnswer::skipped};
    for (std::size_t i = first; i < last; ++i)
        if (tensors[i].grad.data != nullptr || shares_scalars(i)) items_[i].progress.went_on(tensors[i], exposed_);
    report_changes();
    return {StepAnswer::taken};
}

// Whether its scalars change with every step of the model, also where it has no gradient itself.
bool TorchModel::shares_scalars(std::size_t i) const {
    return model_.groups.rule(model_.engine.tensors[i].group).whole && !items_[i].state.is_none();
}

void TorchModel::report_changes() {
    if (changed.is_none()) return;
    std::size_t active = 0;
    for (const Tensor& x : model_.engine.tensors) active += x.grad.data != nullptr;
    if (active == items_.size()) {
        changed(every_);
        return;
    }
    py::list some;
    for (const std::size_t i : stepped()) some.append(items_[i].param.local);
    changed(some);
}

std::vector<std::size_t> TorchModel::stepped() const {
    std::vector<std::size_t> out;
    for (std::size_t i = 0; i < model_.size(); ++i)
        if (model_.engine.tensors[i].grad.data != nullptr) out.push_back(i);
    return out;
}

int TorchModel::traverse(visitproc visit, void* arg) const {
    for (const Item& item : items_) {
        if (const int stop = item.grad.traverse(visit, arg)) return stop;
        for (const py::object* object : {&item.param.param, &item.param.local, &item.state, &item.direction})
            Py_VISIT(object->ptr());
        for (const Entry& kept : item.entries) {
            Py_VISIT(kept.tensor.ptr());
            Py_VISIT(kept.local.ptr());
        }
    }
    for (const auto& group : watched_)
        for (const auto& [key, seen] : group) Py_VISIT(seen.ptr());
    Py_VISIT(every_.ptr());
    Py_VISIT(changed.ptr());
    Py_VISIT(owner_.ptr());
    return 0;
}

// The model stays, and is cleared by itself.
void TorchModel::clear() {
    used_.clear();
    const auto gone = std::make_tuple(std::exchange(items_, {}), std::exchange(watched_, {}),
                                      std::exchange(every_, py::list()), std::exchange(changed, py::none()));
}

}  // namespace fusedstep
