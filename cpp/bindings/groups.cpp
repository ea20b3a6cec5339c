#include "groups.hpp"

#include <array>
#include <cstring>
#include <limits>
#include <utility>

#include "../dispatch.hpp"
#include "../threads/float_environment.hpp"

namespace fusedstep {
namespace {

// Objects that cannot change while they are the same object.
bool is_constant(PyObject* value) {
    if (value == Py_None || PyBool_Check(value) || PyFloat_Check(value) || PyLong_CheckExact(value)) return true;
    if (!PyTuple_Check(value)) return false;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value); ++i)
        if (!is_constant(PyTuple_GET_ITEM(value, i))) return false;
    return true;
}

}  // namespace

const RuleEntry* active_rules() { return active_kernels().rules; }

int find_rule(const std::string& name) {
    const KernelTable& kernels = active_kernels();
    for (int r = 0; r < kernels.n_rules; ++r)
        if (name == kernels.rules[r].name) return r;
    std::string known;
    for (int r = 0; r < kernels.n_rules; ++r) known += std::string(r == 0 ? "" : ", ") + kernels.rules[r].name;
    throw py::value_error("rule: got '" + name + "', needs one of " + known);
}

int GroupReader::add(py::dict group, const std::string& rule) {
    Group made;
    made.rule = rule.empty() ? rule_ : find_rule(rule);
    const RuleEntry& entry = active_rules()[made.rule];
    Source source;
    source.dict = std::move(group);
    for (int h = 0; h < entry.n_hypers; ++h) {
        const std::string name = entry.hypers[h];
        const std::size_t dot = name.find('.');
        int width = 1;  // "betas.0" is followed by "betas.1" and perhaps by more
        while (dot != std::string::npos && h + width < entry.n_hypers &&
               name.compare(0, dot + 1, entry.hypers[h + width], 0, dot + 1) == 0)
            ++width;
        source.values.push_back({interned(name.substr(0, dot)), {}, false, h, width});
        h += width - 1;
    }
    constexpr std::pair<const char*, int> kOthers[] = {
        {"maximize", kMaximize}, {"clip_value", kClipValue}, {"ema_decay", kEmaDecay}, {"cautious", kCautious}};
    for (const auto& [name, number] : kOthers) source.values.push_back({interned(name), {}, false, number});
    sources_.push_back(std::move(source));
    engine_.groups.push_back(made);
    return static_cast<int>(sources_.size()) - 1;
}

// Reads one value of a group anew.
void GroupReader::read_value(std::size_t group, Value& value) {
    Source& source = sources_[group];
    const py::object found = dict_item(source.dict.ptr(), value.key.ptr());
    if (!found)
        throw py::value_error("param_groups[" + std::to_string(group) + "]: got no entry \"" +
                              value.key.cast<std::string>() + "\", needs one");
    const DefaultFloats guard;  // schedules compute
    const py::object checked = check_ ? check_(group, value.key, found) : found;
    Group& target = engine_.groups[group];
    const RuleEntry& entry = rule(static_cast<int>(group));
    const std::array<double, kMaxHypers> before = target.hypers;
    const auto number = [](py::handle x, double none) { return x.is_none() ? none : x.cast<double>(); };
    if (value.number == kMaximize) {
        target.maximize = checked.cast<bool>();
    } else if (value.number == kClipValue) {
        target.clip_value = number(checked, std::numeric_limits<double>::infinity());
    } else if (value.number == kEmaDecay) {
        target.ema_decay = number(checked, 0);
    } else if (value.number == kCautious) {
        const bool cautious = checked.cast<bool>();
        if (cautious && entry.decay[kFloat] == nullptr)
            throw py::value_error("cautious: got True, needs False with " + std::string(entry.name));
        source.changed = source.changed || cautious != target.cautious;
        target.cautious = cautious;
    } else if (value.width > 1) {
        const auto numbers = py::cast<py::tuple>(checked);
        if (numbers.size() != static_cast<std::size_t>(value.width))
            throw py::value_error(value.key.cast<std::string>() + ": got " + std::to_string(numbers.size()) +
                                  " numbers, needs " + std::to_string(value.width));
        for (std::size_t i = 0; i < numbers.size(); ++i)
            target.hypers[static_cast<std::size_t>(value.number) + i] =
                number(numbers[i], std::numeric_limits<double>::quiet_NaN());
    } else {
        target.hypers[static_cast<std::size_t>(value.number)] = checked.cast<double>();
    }
    // The learning rate is the one value that goes with any other.
    for (std::size_t h = 0; h < before.size(); ++h)
        source.changed = source.changed || (target.hypers[h] != before[h] && std::strcmp(entry.hypers[h], "lr") != 0);
    if (value.number == kEmaDecay && checked.is_none() == source.averaged) {
        source.averaged = !checked.is_none();
        source.changed = true;
    }
    value.seen = found;
    value.constant = is_constant(found.ptr());
}

void GroupReader::read_all() {
    for (std::size_t g = 0; g < sources_.size(); ++g)
        for (Value& value : sources_[g].values) read_value(g, value);
    for (std::size_t g = 0; g < sources_.size(); ++g) check_together(g);
}

void GroupReader::read() {
    for (std::size_t g = 0; g < sources_.size(); ++g) {
        PyObject* dict = sources_[g].dict.ptr();
        for (Value& value : sources_[g].values) {
            if (value.constant && dict_holds(dict, value.key.ptr(), value.seen)) continue;
            read_value(g, value);
        }
        if (sources_[g].changed) check_together(g);
    }
}

// Until all fit, every step checks again.
void GroupReader::check_together(std::size_t group) {
    const std::string where = "param_groups[" + std::to_string(group) + "]";
    if (cross_check_) cross_check_(group);
    const RuleEntry& entry = rule(static_cast<int>(group));
    const unsigned used = entry.used_states(entry.variant(engine_.groups[group].hypers.data(), 1));
    for (const Tensor& x : engine_.tensors) {
        if (static_cast<std::size_t>(x.group) != group || x.size == 0) continue;
        if (needs_average && (x.ema != nullptr) != sources_[group].averaged)
            throw py::value_error(where + "[\"ema_decay\"]: got " + (x.ema != nullptr ? "None" : "a number") +
                                  ", but this optimizer was made with" + (x.ema != nullptr ? "" : "out") +
                                  " averages of the parameters; make a new one");
        for (int s = 0; needs_states && s < entry.n_states; ++s)
            if ((used >> s & 1u) && x.lacks_state(s))
                throw py::value_error(where + ": its options now call for the state \"" + entry.states[s].name +
                                      "\", which this optimizer was made without; make a new one with them");
    }
    sources_[group].changed = false;
}

int GroupReader::traverse(visitproc visit, void* arg) const {
    Py_VISIT(check_.ptr());
    Py_VISIT(cross_check_.ptr());
    for (const Source& source : sources_) {
        Py_VISIT(source.dict.ptr());
        for (const Value& value : source.values) Py_VISIT(value.seen.ptr());
    }
    return 0;
}

}  // namespace fusedstep
