#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include "../dispatch.hpp"
#include "../threads/count.hpp"
#include "../threads/float_environment.hpp"
#include "../threads/parallel.hpp"
#include "gil.hpp"

namespace fusedstep {
namespace {

// Letting other Python threads run costs a lock or two: not worth it for steps of a microsecond.
constexpr std::size_t kReleaseFrom = 8192;

bool is_pair(PyObject* object) { return PyTuple_Check(object) && PyTuple_GET_SIZE(object) == 2; }

// Objects that cannot change while they are the same object.
bool is_constant(PyObject* value) {
    if (value == Py_None || PyBool_Check(value) || PyFloat_Check(value) || PyLong_CheckExact(value)) return true;
    if (!PyTuple_Check(value)) return false;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i)
        if (!is_constant(PyTuple_GET_ITEM(value, i))) return false;
    return true;
}

bool same_shape(PyObject* a, PyObject* b) {
    const auto* x = py::detail::array_proxy(a);
    const auto* y = py::detail::array_proxy(b);
    return x->nd == y->nd && std::equal(x->dimensions, x->dimensions + x->nd, y->dimensions);
}

}  // namespace

const RuleEntry* active_rules() { return active_kernels().rules; }

int find_rule(const std::string& name) {
    const KernelTable& kernels = active_kernels();
    for (int r = 0; r < kernels.n_rules; ++r)
        if (name == kernels.rules[r].name) return r;
    throw py::value_error("rule: unknown update rule '" + name + "'");
}

Model::Model(const std::string& rule, py::object check, py::object cross_check, bool plain, std::uint64_t first_index)
    : rule_(find_rule(rule)),
      plain_(plain),
      first_index_(first_index),
      check_(std::move(check)),
      cross_check_(std::move(cross_check)) {
    // What the environment says about threads is wrong now or never.
    default_threads();
    threading();
}

const RuleEntry& Model::rule_of(int group) const {
    return active_rules()[engine_.groups[static_cast<std::size_t>(group)].rule];
}

int Model::add_group(py::dict group, const std::string& rule) {
    const Claim::Guard claimed(*claim_, "param_groups", false);
    Group made;
    made.rule = rule.empty() ? rule_ : find_rule(rule);
    const RuleEntry* entry = &active_rules()[made.rule];
    GroupSource source;
    source.dict = std::move(group);
    for (int h = 0; h < entry->n_hypers; ++h) {
        const std::string name = entry->hypers[h];
        const std::size_t dot = name.find('.');
        int width = 1;  // "betas.0" is followed by "betas.1" and perhaps by more
        while (dot != std::string::npos && h + width < entry->n_hypers &&
               name.compare(0, dot + 1, entry->hypers[h + width], 0, dot + 1) == 0)
            ++width;
        source.values.push_back({py::str(name.substr(0, dot)), {}, false, h, width});
        h += width - 1;
    }
    constexpr std::pair<const char*, int> kOthers[] = {
        {"maximize", kMaximize}, {"clip_value", kClipValue}, {"ema_decay", kEmaDecay}, {"cautious", kCautious}};
    for (const auto& [name, slot] : kOthers) source.values.push_back({py::str(name), {}, false, slot, 1});
    for (Value& value : source.values) {
        PyObject* key = value.key.release().ptr();
        PyUnicode_InternInPlace(&key);
        value.key = py::reinterpret_steal<py::str>(key);
    }
    groups_.push_back(std::move(source));
    engine_.groups.push_back(made);
    return static_cast<int>(groups_.size()) - 1;
}

void Model::keep(const py::object& object, const Array& array, const std::string& name) {
    const char* begin = static_cast<const char*>(array.data);
    extents_.push_back({begin, begin + array.size * item_size(array.format), name});
    owned_.push_back(object);
    if (!py::isinstance<py::array>(object)) return;
    const Seen seen(object.ptr());
    if (!seen.is(array.data, array.size)) throw py::value_error(name + ": was changed in place while it was looked at");
    written_.push_back({object.ptr(), seen});
}

Stream Model::state_stream(PyObject* object, const State& state, const Tensor& x, PyObject* param,
                           const std::string& name) {
    const std::size_t size = x.size;
    if (is_pair(object)) {
        if (state.kind == kExact)
            throw py::value_error(name + ": got 8-bit codes, needs an array of the parameter's compute type");
        const py::object codes = py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(object, 0));
        const py::object scales = py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(object, 1));
        Array values = as_plain(codes.ptr(), "uint8", size, name);
        const Array factors =
            as_plain(scales.ptr(), "float32", (size + kQuantBlock - 1) / kQuantBlock, name + " scales");
        if (is_array(scales.ptr()) && py::reinterpret_borrow<py::array>(scales).ndim() != 1)
            throw py::value_error(name + " scales: got shape " + shape_text(scales.ptr()) + ", needs (" +
                                  std::to_string(factors.size) + ",)");
        values.format = state.kind == kSigned ? Format::q8_signed : Format::q8_unsigned;
        keep(codes, values, name);
        keep(scales, factors, name + " scales");
        check_shape(codes.ptr(), param, name);
        return {values.data, factors.data, values.format};
    }
    const Array array = as_array(object, true, name);
    const Format native = x.compute == kDouble ? Format::float64 : Format::float32;
    const bool fits = array.format == native || (array.format == Format::bfloat16 && state.kind != kExact);
    if (!fits)
        throw py::type_error(name + ": got dtype " + dtype_name(array.format) + ", needs " + dtype_name(native) +
                             (state.kind == kExact ? "" : " or bfloat16"));
    if (array.size != size)
        throw py::value_error(name + ": got " + std::to_string(array.size) + " elements, needs " +
                              std::to_string(size) + " as its parameter has");
    check_shape(object, param, name);
    keep(py::reinterpret_borrow<py::object>(object), array, name);
    return {array.data, nullptr, array.format};
}

// Arrays that go with a parameter have its shape.
void Model::check_shape(PyObject* object, PyObject* param, const std::string& name) const {
    if (!py::isinstance<py::array>(py::handle(object)) || !py::isinstance<py::array>(py::handle(param)) ||
        same_shape(object, param))
        return;
    throw py::value_error(name + ": got shape " + shape_text(object) + ", needs " + shape_text(param) +
                          ", the shape of its parameter");
}

void Model::add(int group, py::object param, py::list states, const std::string& path, py::object copy,
                py::object remainder, bool stochastic, py::object ema, py::object direction, std::uint64_t step,
                std::vector<double> scalars) {
    const Claim::Guard claimed(*claim_, "params", false);
    if (group < 0 || static_cast<std::size_t>(group) >= groups_.size())
        throw py::index_error("group: got " + std::to_string(group) + ", needs the number of an added group");
    const RuleEntry& rule = rule_of(group);
    if (states.size() != static_cast<std::size_t>(rule.n_states))
        throw py::value_error("states: got " + std::to_string(states.size()) + ", needs " +
                              std::to_string(rule.n_states));
    finished_ = false;
    const std::string name = param_name(path);
    const auto beside = [&](const char* what) { return plain_ ? what + path : name + " " + what; };
    const Array array = as_array(param.ptr(), true, name);
    Tensor x;
    x.size = array.size;
    x.group = group;
    x.index = first_index_ + engine_.tensors.size();
    x.step = step;
    x.compute = array.format == Format::float64 ? kDouble : kFloat;
    x.param = {array.data, nullptr, array.format};
    keep(param, array, copy.is_none() ? name : beside("master"));

    if (!remainder.is_none()) {
        const Array low = as_plain(remainder.ptr(), "int16", array.size, beside("master"));
        check_shape(remainder.ptr(), param.ptr(), beside("master"));
        keep(remainder, {low.data, low.size, Format::bfloat16}, beside("master"));
        x.param = {array.data, low.data, Format::split};
    }
    if (!copy.is_none()) {
        const Array narrow = as_array(copy.ptr(), true, name);
        check_shape(copy.ptr(), param.ptr(), beside("master"));
        keep(copy, narrow, name);
        if (array.format != Format::float32 || item_size(narrow.format) != 2 || narrow.size != array.size)
            throw py::type_error(beside("master") + ": got " + std::to_string(array.size) + " elements of " +
                                 dtype_name(array.format) + " for " + std::to_string(narrow.size) + " of " +
                                 dtype_name(narrow.format) + ", needs as many float32 for float16 or bfloat16");
        x.param = {narrow.data, array.data,
                   narrow.format == Format::float16 ? Format::float16_master : Format::bfloat16_master};
    }
    if (stochastic) {
        if (x.param.format == Format::bfloat16) x.param.format = Format::bfloat16_stochastic;
        if (x.param.format == Format::float16) x.param.format = Format::float16_stochastic;
    }
    for (int s = 0; s < rule.n_states; ++s) {
        const py::object state = sequence_item(states.ptr(), static_cast<std::size_t>(s));
        if (!state) throw py::value_error("states: was changed while it was looked at");
        if (state.is_none()) continue;
        x.states[static_cast<std::size_t>(s)] =
            state_stream(state.ptr(), rule.states[s], x, param.ptr(), beside(rule.states[s].name));
    }
    if (rule.product) {
        const State kept{"direction", kSigned};
        x.direction = state_stream(direction.ptr(), kept, x, param.ptr(), beside(kept.name));
    }
    if (!ema.is_none()) {
        const Array average = as_array(ema.ptr(), true, beside("ema"));
        if (average.format != (x.compute == kDouble ? Format::float64 : Format::float32))
            throw py::type_error(beside("ema") + ": got dtype " + dtype_name(average.format) + ", needs " +
                                 (x.compute == kDouble ? "float64" : "float32"));
        if (average.size != array.size)
            throw py::value_error(beside("ema") + ": got " + std::to_string(average.size) + " elements, needs " +
                                  std::to_string(array.size) + " as its parameter has");
        check_shape(ema.ptr(), param.ptr(), beside("ema"));
        keep(ema, average, beside("ema"));
        x.ema = average.data;
    }
    if (scalars.size() > x.scalars.size()) throw py::value_error("scalars: got more than a rule has");
    std::copy(scalars.begin(), scalars.end(), x.scalars.begin());
    engine_.tensors.push_back(x);
    params_.push_back(copy.is_none() ? param : copy);
    paths_.push_back(path);
}

void Model::finish() {
    const Claim::Guard claimed(*claim_, "params", false);
    check_overlap(extents_);
    extents_.erase(std::remove_if(extents_.begin(), extents_.end(), [](const Extent& e) { return e.begin == e.end; }),
                   extents_.end());
    std::sort(extents_.begin(), extents_.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
    checked_grads_.assign(engine_.tensors.size(), {});
    for (std::size_t g = 0; g < groups_.size(); ++g)
        for (Value& value : groups_[g].values) read_value(g, value);
    for (std::size_t g = 0; g < groups_.size(); ++g) settle(g);
    engine_.prepare();
    finished_ = true;
}

void Model::share_tensors(const std::vector<std::pair<std::size_t, std::size_t>>& pieces,
                          const std::vector<std::pair<std::size_t, std::size_t>>& buckets, py::object begin,
                          py::object receive, py::object sum, py::object send) {
    const Claim::Guard claimed(*claim_, "params", false);
    check_finished("share_tensors()");
    std::vector<Tensor>& tensors = engine_.tensors;
    if (pieces.size() != tensors.size())
        throw py::value_error("pieces: got " + std::to_string(pieces.size()) + ", needs " +
                              std::to_string(tensors.size()));
    for (std::size_t i = 0; i < pieces.size(); ++i)
        if (pieces[i].first % kBlock != 0 || (pieces[i].second != 0 && tensors[i].size % kBlock != 0))
            throw py::value_error("pieces: a tensor is cut within a block of " + std::to_string(kBlock) + " elements");
    BucketEnd last{0, 0};
    for (const auto& [tensor, element] : buckets) {
        const bool within = tensor < tensors.size() ? element == 0 || element < tensors[tensor].size : element == 0;
        if (tensor > tensors.size() || !within || element % kBlock != 0 || tensor < last.tensor ||
            (tensor == last.tensor && element < last.element))
            throw py::value_error("buckets: needs ascending places between blocks");
        last = {tensor, element};
    }
    if (last.tensor != tensors.size()) throw py::value_error("buckets: the last one ends before the last tensor");
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        tensors[i].before = pieces[i].first;
        tensors[i].after = pieces[i].second;
    }
    engine_.buckets.clear();
    for (const auto& [tensor, element] : buckets) engine_.buckets.push_back({tensor, element});
    peers_ = std::make_unique<PythonPeers>(std::move(begin), std::move(receive), std::move(sum), std::move(send));
    engine_.peers = peers_.get();
    engine_.prepare();
}

void Model::share_parts(py::object begin, py::object sum) {
    const Claim::Guard claimed(*claim_, "params", false);
    check_finished("share_parts()");
    for (Tensor& x : engine_.tensors) x.after = x.size == 0 ? 1 : 0;  // a block for the sum of the others' parts
    engine_.buckets = {{engine_.tensors.size(), 0}};
    engine_.sums_of_tensors = true;
    peers_ = std::make_unique<PythonPeers>(std::move(begin), py::none(), std::move(sum), py::none());
    engine_.peers = peers_.get();
    engine_.prepare();
}

// Reads one value of a group anew.
void Model::read_value(std::size_t group, Value& value) {
    const py::object source = dict_item(groups_[group].dict.ptr(), value.key.ptr());
    if (!source)
        throw py::value_error("param_groups[" + std::to_string(group) + "]: has no entry \"" +
                              value.key.cast<std::string>() + "\"");
    const DefaultFloats guard;  // schedules compute
    const py::object checked = check_.is_none() ? source : check_(group, value.key, source);
    Group& target = engine_.groups[group];
    const std::array<double, kMaxHypers> before = target.hypers;
    const auto number = [](py::handle x, double none) { return x.is_none() ? none : x.cast<double>(); };
    if (value.slot == kMaximize) {
        target.maximize = checked.cast<bool>();
    } else if (value.slot == kClipValue) {
        target.clip_value = number(checked, std::numeric_limits<double>::infinity());
    } else if (value.slot == kEmaDecay) {
        target.ema_decay = number(checked, 0);
    } else if (value.slot == kCautious) {
        const bool cautious = checked.cast<bool>();
        const RuleEntry& rule = rule_of(static_cast<int>(group));
        if (cautious && rule.decay[kFloat] == nullptr)
            throw py::value_error("cautious: got True, needs False with " + std::string(rule.name));
        groups_[group].unsettled = groups_[group].unsettled || cautious != target.cautious;
        target.cautious = cautious;
    } else if (value.width > 1) {
        const auto numbers = py::cast<py::tuple>(checked);
        if (numbers.size() != static_cast<std::size_t>(value.width))
            throw py::value_error(value.key.cast<std::string>() + ": got " + std::to_string(numbers.size()) +
                                  " numbers, needs " + std::to_string(value.width));
        for (std::size_t i = 0; i < numbers.size(); ++i)
            target.hypers[static_cast<std::size_t>(value.slot) + i] = numbers[i].cast<double>();
    } else {
        target.hypers[static_cast<std::size_t>(value.slot)] = checked.cast<double>();
    }
    // The learning rate is the one value that goes with any other.
    const RuleEntry& rule = rule_of(static_cast<int>(group));
    for (std::size_t h = 0; h < before.size(); ++h)
        groups_[group].unsettled =
            groups_[group].unsettled || (target.hypers[h] != before[h] && std::strcmp(rule.hypers[h], "lr") != 0);
    if (value.slot == kEmaDecay && checked.is_none() == groups_[group].averaged) {
        groups_[group].averaged = !checked.is_none();
        groups_[group].unsettled = true;
    }
    value.seen = source;
    value.constant = is_constant(source.ptr());
}

void Model::read_groups() {
    for (std::size_t g = 0; g < groups_.size(); ++g) {
        PyObject* dict = groups_[g].dict.ptr();
        for (Value& value : groups_[g].values) {
            if (value.constant && dict_holds(dict, value.key.ptr(), value.seen)) continue;
            read_value(g, value);
        }
        if (groups_[g].unsettled) settle(g);
    }
}

// A group's values together, and the states they call for: until they fit, every step looks again.
void Model::settle(std::size_t group) {
    const std::string where = "param_groups[" + std::to_string(group) + "]";
    if (!cross_check_.is_none()) cross_check_(group);
    const Group& g = engine_.groups[group];
    const RuleEntry& rule = rule_of(static_cast<int>(group));
    const unsigned used = rule.used_states(rule.variant(g.hypers.data(), 1));
    for (const Tensor& x : engine_.tensors) {
        if (static_cast<std::size_t>(x.group) != group || x.size == 0) continue;
        if (!plain_ && (x.ema != nullptr) != groups_[group].averaged)
            throw py::value_error(where + "[\"ema_decay\"]: got " + (x.ema != nullptr ? "None" : "a number") +
                                  ", but this optimizer was made with" + (x.ema != nullptr ? "" : "out") +
                                  " averages of the parameters; make a new one");
        for (int s = 0; s < rule.n_states; ++s)
            if ((used >> s & 1u) && x.states[static_cast<std::size_t>(s)].data == nullptr)
                throw py::value_error(where + ": its options now call for the state \"" + rule.states[s].name +
                                      "\", which this optimizer was made without; make a new one with them");
    }
    groups_[group].unsettled = false;
}

// Nothing for what no conversion would mend.
std::string Model::advice(PyObject* grad) const {
    if (advice_.empty()) return "";
    if (is_array(grad)) {
        const auto array = py::reinterpret_borrow<py::array>(grad);
        const bool numbers = std::strchr("fiu", array.dtype().kind()) != nullptr || known_format(grad);
        const bool form = (py::detail::array_proxy(grad)->flags & kLayout) != kLayout || !known_format(grad);
        return numbers && form ? advice_ : "";
    }
    if (py::isinstance<py::array>(grad)) return "";  // with a mask
    for (const char* protocol : {"__dlpack__", "__array__", "__array_interface__", "__array_struct__"})
        if (PyObject_HasAttrString(grad, protocol)) return advice_;
    return "";
}

void Model::set_gradient(std::size_t i, PyObject* grad) {
    Tensor& x = engine_.tensors[i];
    x.rows = nullptr;
    if (grad == Py_None) {
        x.grad.data = nullptr;
        return;
    }
    if (set_rows(i, grad)) return;
    const auto name = [&] { return grad_name(i); };
    Array array;
    const bool usable = is_array(grad) && (py::detail::array_proxy(grad)->flags & kLayout) == kLayout &&
                        (!now_.zero_grads || py::reinterpret_borrow<py::array>(grad).writeable());
    // The common case without building a name for messages nobody reads.
    try {
        if (usable) {
            const auto* fields = py::detail::array_proxy(grad);
            array = {fields->data, x.size, format_of(grad, name)};
        } else {
            array = as_array(grad, now_.zero_grads, name());
        }
    } catch (const py::type_error& error) {
        throw py::type_error(error.what() + advice(grad));
    } catch (const py::value_error& error) {
        throw py::value_error(error.what() + advice(grad));
    }
    if (array.format == Format::float64 && x.compute == kFloat)
        throw py::type_error(name() + ": got dtype float64, needs float32, float16 or bfloat16, no wider than " +
                             param_name(paths_[i]) + " is computed in; .astype(numpy.float32) converts it" + advice_);
    PyObject* param = params_[i].ptr();
    const bool fits =
        usable && py::isinstance<py::array>(py::handle(param)) ? same_shape(grad, param) : array.size == x.size;
    if (!fits)
        throw py::value_error(name() + ": got shape " + (usable ? shape_text(grad) : std::to_string(array.size)) +
                              ", needs " + (usable ? shape_text(param) : std::to_string(x.size)) + ", the shape of " +
                              param_name(paths_[i]));
    x.grad = {array.size == 0 ? grad : array.data, nullptr, array.format};
}

// A gradient must not lie in memory that the step writes. Gradients that passed before are not checked again.
void Model::check_gradient_overlap() {
    bool moved = false;
    for (std::size_t i = 0; i < engine_.tensors.size(); ++i) {
        const Tensor& x = engine_.tensors[i];
        if (x.grad.data == nullptr || x.rows != nullptr || x.size == 0) continue;
        const char* begin = static_cast<const char*>(x.grad.data);
        const char* end = begin + x.size * item_size(x.grad.format);
        if (begin == checked_grads_[i].begin && end <= checked_grads_[i].end) continue;
        moved = true;
        const auto after = std::upper_bound(extents_.begin(), extents_.end(), begin,
                                            [](const char* value, const Extent& e) { return value < e.end; });
        if (after != extents_.end() && after->begin < end)
            throw py::value_error(grad_name(i) + " and " + after->name +
                                  " overlap in memory; a gradient needs memory of its own");
        checked_grads_[i] = {begin, end};
    }
    if (!moved || !now_.zero_grads) return;
    std::vector<Extent> grads;
    for (std::size_t i = 0; i < engine_.tensors.size(); ++i) {
        const Tensor& x = engine_.tensors[i];
        if (x.grad.data == nullptr || x.rows != nullptr || x.size == 0) continue;
        const char* begin = static_cast<const char*>(x.grad.data);
        grads.push_back({begin, begin + x.size * item_size(x.grad.format), grad_name(i)});
    }
    check_overlap(std::move(grads));
}

void Model::check_still_there() const {
    for (const Written& w : written_)
        if (!w.seen.holds(w.object, true))
            throw py::value_error(
                "params: an array of this optimizer was made read-only, or its memory, size or dtype was changed in "
                "place, since the optimizer was made; make a new one");
}

// Other threads ran while this one waited for other processes or for a product.
void Model::check_after_waiting() { check_still_there(); }

// Python code that is asked about a gradient may have changed the arrays that were taken before.
void Model::check_gradients_still_there(const std::vector<py::object>& grads) const {
    for (std::size_t i = 0; i < grads.size(); ++i) {
        const Tensor& x = engine_.tensors[i];
        if (x.grad.data == nullptr || x.rows != nullptr || x.size == 0 || !py::isinstance<py::array>(grads[i]))
            continue;
        if (!Seen(grads[i].ptr()).is(x.grad.data, x.size))
            throw py::value_error(grad_name(i) + ": was changed in place while the gradients were looked at");
    }
    for (std::size_t k = 0; k < rows_used_; ++k) {
        const RowGradient& taken = rows_[k];
        if (!Seen(taken.indices.ptr()).is(taken.numbers, taken.count) ||
            !Seen(taken.values.ptr()).is(taken.given.data, taken.given.size))
            throw py::value_error(grad_name(taken.tensor) +
                                  ": was changed in place while the gradients were looked at");
    }
}

// Everything that may run a caller's code (a schedule's), before any pointer is taken from the caller's gradients.
void Model::begin(double grad_scale) {
    check_finished("step()");
    if (!(grad_scale > 0) || !std::isfinite(grad_scale))
        throw py::value_error("grad_scale: got " + py::str(py::float_(grad_scale)).cast<std::string>() +
                              ", needs a finite number above 0");
    const double inverse = 1 / grad_scale;
    if (!std::isfinite(engine_.single() ? static_cast<double>(static_cast<float>(inverse)) : inverse))
        throw py::value_error("grad_scale: got " + py::str(py::float_(grad_scale)).cast<std::string>() +
                              ", needs a number whose inverse is finite in " +
                              (engine_.single() ? "float32" : "float64"));
    rows_used_ = 0;
    read_groups();
    take_options();
    now_.grad_scale = grad_scale;
}

// Those of this step: what another thread sets meanwhile holds from the next on.
void Model::take_options() {
    // Gradients that are written must not overlap each other: check all of them again.
    const bool before = now_.zero_grads;
    now_ = options;
    if (now_.zero_grads && !before) std::fill(checked_grads_.begin(), checked_grads_.end(), Range{});
}

bool Model::run() {
    check_still_there();
    check_gradient_overlap();
    if (peers_ != nullptr) {
        peers_->begin();
        check_after_waiting();
    }
    const auto released = [this](auto&& work) {
        if (engine_.elements() < kReleaseFrom)
            work();
        else
            without_gil(work);
        if (last_.failed) peers_->raise();
    };
    // Parameters that are stepped one by one go by their own counts.
    now_.watch =
        watch_every_ != 0 &&
        (only_ < 0 ? until_watched_ == 0 : engine_.tensors[static_cast<std::size_t>(only_)].step % watch_every_ == 0);
    released([this] { step_engine(); });
    if (last_.taken && engine_.has_products()) {
        change_directions();
        released([this] { engine_.finish(now_, last_); });
    }
    grad_norm = last_.grad_norm;
    nonfinite_blocks = last_.nonfinite_blocks;
    if (last_.overflowed != kNone) {
        const std::string message = param_name(paths_[last_.overflowed]) +
                                    ": the step would take an element beyond 65504, the largest float16; nothing was "
                                    "changed. Use bfloat16 or float32, or a smaller lr";
        PyErr_SetString(PyExc_OverflowError, message.c_str());
        throw py::error_already_set();
    }
    if (last_.taken) steps_taken = steps_taken + 1;
    if (watch_every_ != 0) record();
    return last_.taken;
}

void Model::watch_steps(std::uint64_t every, std::uint64_t until, const std::vector<int>& states, py::list records,
                        std::size_t keep) {
    const Claim::Guard claimed(*claim_, "watch()", false);
    check_finished("watch()");
    if (states.size() != groups_.size())
        throw py::value_error("states: got " + std::to_string(states.size()) + ", needs " +
                              std::to_string(groups_.size()));
    for (std::size_t g = 0; g < groups_.size(); ++g)
        if (states[g] < -1 || states[g] >= rule_of(static_cast<int>(g)).n_states)
            throw py::value_error("states: got " + std::to_string(states[g]) + ", needs the number of a state or -1");
    engine_.watch(every != 0);
    for (std::size_t g = 0; g < groups_.size(); ++g) engine_.groups[g].counted_state = states[g];
    watch_every_ = every;
    until_watched_ = until;
    records_ = std::move(records);
    records_kept_ = keep;
}

// Notes what a watched step has summed up. All is kept as it is, so that no code of others runs here; where there is no
// memory for it, the record is left out, as the step is taken already.
void Model::record() {
    if (now_.watch) {
        try {
            std::vector<double> sums, hypers;
            std::vector<std::uint32_t> counts;
            for (std::size_t i = 0; i < engine_.tensors.size(); ++i) {
                const Tensor& x = engine_.tensors[i];
                if (x.grad.data == nullptr) continue;
                const TensorSums& its = engine_.sums()[i];
                const double step = static_cast<double>(x.step) + (last_.taken ? 0 : 1);
                const double values[] = {static_cast<double>(i),
                                         static_cast<double>(x.group),
                                         step,
                                         static_cast<double>(x.steps_over()),
                                         its.grad,
                                         its.param,
                                         its.update,
                                         static_cast<double>(its.zeros),
                                         static_cast<double>(its.nonfinite)};
                sums.insert(sums.end(), std::begin(values), std::end(values));
                for (std::size_t e = 0; e < kExponents; ++e)
                    if (const std::uint32_t count = engine_.exponents()[i * kExponents + e]; count != 0)
                        counts.insert(counts.end(),
                                      {static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(e), count});
            }
            for (const Group& group : engine_.groups)
                hypers.insert(hypers.end(), group.hypers.begin(), group.hypers.end());
            const auto bytes = [](const auto& values) {
                return py::bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof values[0]);
            };
            records_.append(
                py::make_tuple(last_.taken, only_ >= 0, now_.grad_scale, bytes(sums), bytes(counts), bytes(hypers)));
            const std::size_t held = records_.size();
            if (held > records_kept_)
                PyList_SetSlice(records_.ptr(), 0, static_cast<Py_ssize_t>(held - records_kept_), nullptr);
        } catch (const std::bad_alloc&) {
        } catch (py::error_already_set& error) {
            if (!error.matches(PyExc_MemoryError)) throw;
        }
    }
    if (last_.taken && only_ < 0) until_watched_ = now_.watch ? watch_every_ - 1 : until_watched_ - 1;
}

void Model::step_engine() {
    sum_rows();
    last_ = engine_.has_products() ? engine_.start(now_) : engine_.step(now_);
}

// Between the two parts of a step. The called code may run Python code of others, so the arrays are checked again.
void Model::change_directions() {
    try {
        py::list active;
        for (std::size_t i = 0; i < engine_.tensors.size(); ++i) {
            const Tensor& x = engine_.tensors[i];
            if (x.grad.data != nullptr && x.size != 0 && rule_of(x).product)
                active.append(py::make_tuple(i, x.direction_norm));
        }
        if (!active.empty()) product_(active);
        check_after_waiting();
        check_gradients_still_there(bound_current_ ? bound_ : flat_);
    } catch (...) {
        engine_.take_back();
        throw;
    }
}

void Model::warn_of_nonfinite() const {
    if (const std::uint64_t blocks = nonfinite_blocks;
        blocks != 0 &&
        PyErr_WarnFormat(PyExc_RuntimeWarning, 2,
                         "%llu block(s) of 256 8-bit state values hold an infinity or NaN and read as NaN from now on",
                         static_cast<unsigned long long>(blocks)) < 0)
        throw py::error_already_set();
}

void Model::bind(const Tree& tree, py::object grads) {
    const Claim::Guard claimed(*claim_, "grads", false);
    check_finished("grads");
    take_options();
    rows_used_ = 0;
    tree.flatten(grads.ptr(), "grads", flat_);
    check_count();
    bound_current_ = false;
    for (std::size_t i = 0; i < flat_.size(); ++i) {
        set_gradient(i, flat_[i].ptr());
        if (engine_.tensors[i].rows != nullptr)
            throw py::value_error(grad_name(i) + ": SparseRows cannot be bound, they are others in every step; pass " +
                                  "the gradients to step()");
    }
    check_gradient_overlap();
    bound_ = std::move(flat_);
    flat_.clear();
    note_bound();
}

// The engine's gradients are the bound ones: notes what they look like now.
void Model::note_bound() {
    check_gradients_still_there(bound_);
    bound_seen_.clear();
    for (const py::object& grad : bound_)
        bound_seen_.emplace_back(py::isinstance<py::array>(grad) ? Seen(grad.ptr()) : Seen());
    bound_current_ = true;
}

void Model::prepare(double grad_scale) {
    const Claim::Guard claimed(*claim_, "step()", true);
    begin(grad_scale);
    check_still_there();
}

bool Model::step_bound(double grad_scale) {
    const Claim::Guard claimed(*claim_, "step()", true);
    if (bound_.size() != engine_.tensors.size() || bound_.empty())
        throw py::value_error(
            "grads: got None, needs the gradients; only an optimizer that was made with grads= can "
            "step without them");
    begin(grad_scale);
    if (!bound_current_) {
        for (std::size_t i = 0; i < bound_.size(); ++i) set_gradient(i, bound_[i].ptr());
        note_bound();
    }
    for (std::size_t i = 0; i < bound_.size(); ++i) {
        PyObject* grad = bound_[i].ptr();
        if (py::isinstance<py::array>(bound_[i]) && engine_.tensors[i].size != 0 &&
            !bound_seen_[i].holds(grad, now_.zero_grads))
            throw py::value_error(
                grad_name(i) +
                ": its memory, size or dtype was changed in place, or it was made read-only, since it "
                "was bound");
    }
    const bool taken = run();
    warn_of_nonfinite();
    return taken;
}

void Model::check_count() const {
    if (flat_.size() != engine_.tensors.size())
        throw py::value_error("grads: got " + std::to_string(flat_.size()) + " gradients, needs " +
                              std::to_string(engine_.tensors.size()));
}

bool Model::step_tree(const Tree& tree, py::object grads, double grad_scale) {
    const Claim::Guard claimed(*claim_, "step()", true);
    begin(grad_scale);
    tree.flatten(grads.ptr(), "grads", flat_);
    const bool taken = step_flat();
    warn_of_nonfinite();
    return taken;
}

bool Model::step_list(py::list grads, double grad_scale) {
    const Claim::Guard claimed(*claim_, "step()", true);
    begin(grad_scale);
    let_go(flat_);
    while (py::object grad = sequence_item(grads.ptr(), flat_.size())) flat_.push_back(std::move(grad));
    return step_flat();
}

void Model::check_finished(const char* what) const {
    if (!finished_) throw std::runtime_error(std::string(what) + ": this model is not finished");
}

bool Model::step_flat() {
    // Whatever happens, the gradients are the caller's alone again afterwards.
    struct Release {
        Model& model;
        ~Release() {
            let_go(model.flat_);
            for (RowGradient& taken : model.rows_) taken.indices = taken.values = py::object();
        }
    } release{*this};
    check_count();
    bound_current_ = false;
    bool plain = true;
    for (std::size_t i = 0; i < flat_.size(); ++i) {
        plain = plain && (flat_[i].is_none() || is_plain_array(flat_[i].ptr()));
        set_gradient(i, flat_[i].ptr());
    }
    if (!plain) check_gradients_still_there(flat_);
    const bool taken = run();
    if (taken && now_.zero_grads) zero_rows();
    return taken;
}

void Model::configure(double max_grad_norm, bool skip_nonfinite, bool zero_grads, std::uint64_t seed) {
    options.max_grad_norm = max_grad_norm;
    options.skip_nonfinite = skip_nonfinite;
    options.zero_grads = zero_grads;
    options.seed = seed;
}

int Model::traverse(visitproc visit, void* arg) const {
    Py_VISIT(check_.ptr());
    Py_VISIT(cross_check_.ptr());
    Py_VISIT(product_.ptr());
    Py_VISIT(check_rows_.ptr());
    Py_VISIT(rows_type_.ptr());
    Py_VISIT(records_.ptr());
    if (peers_ != nullptr)
        if (const int stop = peers_->traverse(visit, arg)) return stop;
    for (const GroupSource& group : groups_) {
        Py_VISIT(group.dict.ptr());
        for (const Value& value : group.values) Py_VISIT(value.seen.ptr());
    }
    for (const std::vector<py::object>* objects : {&params_, &owned_, &flat_, &bound_})
        for (const py::object& object : *objects) Py_VISIT(object.ptr());
    for (const RowGradient& taken : rows_) {
        Py_VISIT(taken.indices.ptr());
        Py_VISIT(taken.values.ptr());
    }
    return 0;
}

void Model::clear() {
    // What is let go may call this model again: it must find it empty, and not finished.
    finished_ = false;
    engine_.tensors.clear();
    engine_.peers = nullptr;
    const auto peers = std::exchange(peers_, nullptr);
    written_.clear();
    extents_.clear();
    const auto groups = std::exchange(groups_, {});
    const auto params = std::exchange(params_, {}), owned = std::exchange(owned_, {}), flat = std::exchange(flat_, {}),
               bound = std::exchange(bound_, {});
    const auto rows = std::exchange(rows_, {});
    const py::list records = std::exchange(records_, py::list());
    rows_used_ = 0;
    const py::object check = std::exchange(check_, py::none()), cross_check = std::exchange(cross_check_, py::none()),
                     product = std::exchange(product_, py::none()), check_rows = std::exchange(check_rows_, py::none()),
                     type = std::exchange(rows_type_, py::none());
}

void Model::set_step(std::size_t i, std::uint64_t step) {
    const Claim::Guard claimed(*claim_, "step count", false);
    engine_.tensors.at(i).step = step;
}

void Model::set_index(std::size_t i, std::uint64_t index) {
    const Claim::Guard claimed(*claim_, "noise index", false);
    engine_.tensors.at(i).index = first_index_ + index;
}

std::vector<double> Model::get_scalars(std::size_t i) const {
    const auto& all = engine_.tensors.at(i).scalars;
    return {all.begin(), all.begin() + rule_of(engine_.tensors[i]).n_scalars};
}

void Model::set_scalars(std::size_t i, const std::vector<double>& values) {
    const Claim::Guard claimed(*claim_, "scalar states", false);
    auto& all = engine_.tensors.at(i).scalars;
    const int needed = rule_of(engine_.tensors[i]).n_scalars;
    if (values.size() != static_cast<std::size_t>(needed))
        throw py::value_error("values: got " + std::to_string(values.size()) + ", needs " + std::to_string(needed));
    std::copy(values.begin(), values.end(), all.begin());
}

}  // namespace fusedstep
