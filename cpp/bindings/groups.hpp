// Parameter groups: the dicts that Python holds as the engine's groups, read again where they may have changed.
#pragma once
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "../engine/engine.hpp"
#include "items.hpp"

namespace fusedstep {

const RuleEntry* active_rules();

// Its number. ValueError for an unknown one.
int find_rule(const std::string& name);

class GroupReader {
public:
    // `check(group, name, value)` returns the value checked, as float, bool, tuple of floats or None, with a callable
    // already called; `cross_check(group)` checks all of a group's values together. Both raise what a user reads.
    // None: the values were checked before.
    GroupReader(Engine& engine, const std::string& rule, py::object check, py::object cross_check)
        : engine_(engine), rule_(find_rule(rule)), check_(or_null(check)), cross_check_(or_null(cross_check)) {}

    // The dict is kept. `rule` is the group's own, by default the model's. Returns the group's number.
    int add(py::dict group, const std::string& rule);

    // What each parameter must have for its group's options: whether it has its states, and an average if and only
    // if the group has ema_decay.
    bool needs_states = true, needs_average = true;

    // Reads all values, or those that may have changed since, and checks them: alone, together, and with what the
    // group's parameters have.
    void read_all();
    void read();

    std::size_t size() const { return sources_.size(); }
    PyObject* dict(std::size_t group) const { return sources_[group].dict.ptr(); }
    const RuleEntry& rule() const { return active_rules()[rule_]; }
    const RuleEntry& rule(int group) const {
        return active_rules()[engine_.groups[static_cast<std::size_t>(group)].rule];
    }
    // Whether ema_decay is a number.
    bool averaged(std::size_t group) const { return sources_[group].averaged; }

    // For Python's garbage collector.
    int traverse(visitproc visit, void* arg) const;

private:
    // Values that every rule has. The others are numbered as the rule's hyper-parameters.
    enum StepOption { kMaximize = -1, kClipValue = -2, kEmaDecay = -3, kCautious = -4 };

    // A value of a group as last seen. While the dict holds the same immutable object there is nothing to do.
    struct Value {
        py::str key;
        py::object seen;
        bool constant = false;
        int number = 0;  // of the hyper-parameter, or a StepOption
        int width = 1;   // more: a tuple of as many numbers
    };
    struct Source {
        py::dict dict;
        std::vector<Value> values;
        bool averaged = false;
        bool changed = true;  // values that were not checked together since
    };

    void read_value(std::size_t group, Value& value);
    void check_together(std::size_t group);

    Engine& engine_;
    int rule_;
    py::object check_, cross_check_;
    std::vector<Source> sources_;
};

}  // namespace fusedstep
