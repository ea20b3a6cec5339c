// The extension module: names, docstrings and nothing else.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "../crc32.hpp"
#include "../dispatch.hpp"
#include "../engine/noise.hpp"
#include "../threads/count.hpp"
#include "../threads/float_environment.hpp"
#include "../threads/parallel.hpp"
#include "../xla/step.hpp"
#include "gil.hpp"
#include "model.hpp"
#include "streaming.hpp"
#include "torch_model.hpp"
#include "tree.hpp"

namespace py = pybind11;
using namespace fusedstep;

namespace {

py::dict build_info() {
    py::dict info;
    info["version"] = FUSEDSTEP_VERSION;
    info["compiler"] = FUSEDSTEP_COMPILER;
    py::dict teams;
    teams["pool"] = "threads of the package's own";
    if (!find_openmp().description.empty()) teams["openmp"] = find_openmp().description;
    info["threading"] = teams;
    py::list isas;
    for (const Isa& isa : built_isas()) isas.append(py::make_tuple(isa.name, isa.description, isa.supported()));
    info["isas"] = isas;
    return info;
}

py::list rules() {
    static const char* const kinds[] = {"signed", "unsigned", "exact"};
    py::list all;
    const KernelTable& kernels = active_kernels();
    for (int r = 0; r < kernels.n_rules; ++r) {
        const RuleEntry& rule = kernels.rules[r];
        py::list hypers, states, scalars, norms;
        for (int i = 0; i < rule.n_hypers; ++i) hypers.append(rule.hypers[i]);
        for (int i = 0; i < rule.n_states; ++i)
            states.append(py::make_tuple(rule.states[i].name, kinds[rule.states[i].kind]));
        for (int i = 0; i < rule.n_scalars; ++i) scalars.append(rule.scalars[i]);
        if (rule.norms && rule.norm_param) norms.append("param");
        if (rule.norms) norms.append("grad");
        for (int i = 0; rule.norms && i < rule.n_states; ++i)
            if (rule.norm_states >> i & 1u) norms.append(rule.states[i].name);
        all.append(py::make_tuple(rule.name, hypers, states, scalars, norms, rule.decay[kFloat] != nullptr));
    }
    return all;
}

// Lets Python's garbage collector see what an object of T refers to.
template <class T>
void support_gc(PyHeapTypeObject* heap) {
    PyTypeObject& type = heap->ht_type;
    type.tp_flags |= Py_TPFLAGS_HAVE_GC;
    type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) -> int {
        Py_VISIT(Py_TYPE(self));
        if (!py::detail::is_holder_constructed(self)) return 0;
        return py::cast<const T&>(py::handle(self)).traverse(visit, arg);
    };
    type.tp_clear = [](PyObject* self) -> int {
        if (py::detail::is_holder_constructed(self)) py::cast<T&>(py::handle(self)).clear();
        return 0;
    };
}

std::string received(py::handle object) {
    return utf8(py::repr(object)) + " (" + utf8(py::str(py::type::handle_of(object).attr("__name__"))) + ")";
}

// One object for each answer without numbers: told apart by identity, the cheapest comparison in Python.
py::object kept_answer(StepAnswer::Outcome outcome) {
    static const auto* all =
        new std::vector<py::object>{py::cast(StepAnswer{StepAnswer::taken}), py::cast(StepAnswer{StepAnswer::skipped}),
                                    py::cast(StepAnswer{StepAnswer::stale})};
    return (*all)[outcome];
}

// with model.exclusive("state_dict()"): no other thread takes a step.
class Exclusive {
public:
    Exclusive(std::shared_ptr<Claim> claim, std::string what, bool step)
        : claim_(std::move(claim)), what_(std::move(what)), step_(step) {}
    void enter() {
        if (guard_) throw std::runtime_error(what_ + ": this context manager is in use");
        guard_.emplace(*claim_, what_.c_str(), step_);
    }
    void exit(const py::args&) { guard_.reset(); }

private:
    std::shared_ptr<Claim> claim_;
    std::string what_;
    bool step_;
    std::optional<Claim::Guard> guard_;
};

void choose_isa(py::object name) {
    if (!py::isinstance<py::str>(name)) throw py::type_error("name: got " + received(name) + ", needs a string");
    set_isa(utf8(name));
}

void choose_threads(py::object n) {
    if (PyBool_Check(n.ptr()) || PyIndex_Check(n.ptr()) == 0)
        throw py::type_error("n: got " + received(n) + ", needs an integer");
    int overflow = 0;
    const long count = PyLong_AsLongAndOverflow(n.ptr(), &overflow);
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_TypeError)) throw py::error_already_set();
        PyErr_Clear();  // NumPy's: an array of one element has an index only without axes
        throw py::type_error("n: got " + received(n) + ", needs an integer");
    }
    if (overflow != 0 || count < 1 || count > kMaxThreads)
        throw py::value_error("n: got " + utf8(py::str(n)) + ", needs 1 to " + std::to_string(kMaxThreads));
    set_num_threads(static_cast<int>(count));
}

void choose_threading(py::object name) {
    if (!py::isinstance<py::str>(name)) throw py::type_error("name: got " + received(name) + ", needs a string");
    set_threading(utf8(name));
}

// zlib.crc32 of contiguous memory.
std::uint32_t crc32(const py::object& data, std::uint32_t value) {
    Py_buffer view;
    if (PyObject_GetBuffer(data.ptr(), &view, PyBUF_SIMPLE) != 0) throw py::error_already_set();
    without_gil([&] {
        value = fast_crc32(value, static_cast<const unsigned char*>(view.buf), static_cast<std::size_t>(view.len));
    });
    PyBuffer_Release(&view);
    return value;
}

// The default floating-point environment as a context manager: for what Python computes with NumPy.
struct FloatScope {
    FloatEnvironment before{};
};

}  // namespace

// By this symbol threadpoolctl tells the extension from others of the name.
#if !defined(_WIN32)
extern "C" __attribute__((visibility("default"))) const char fusedstep_version[] = FUSEDSTEP_VERSION;
#endif

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    m.attr("__version__") = FUSEDSTEP_VERSION;
    m.doc() = "The native steps of fusedstep.";
    py::register_local_exception_translator([](std::exception_ptr thrown) {
        try {
            if (thrown) std::rethrow_exception(thrown);
        } catch (const std::invalid_argument& error) {  // may quote an environment variable, which holds any bytes
            const auto text = py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(
                error.what(), static_cast<Py_ssize_t>(std::strlen(error.what())), "backslashreplace"));
            if (text) PyErr_SetObject(PyExc_ValueError, text.ptr());
        }
    });
    m.def("build_info", &build_info, "What this build is: version, compiler, parallel runtime, instruction sets.");
    m.def("rules", &rules,
          "Every update rule: (name, hyper-parameters, (state, kind) pairs, scalar states, whether a step "
          "needs sums over whole tensors first).");
    m.def("isa", [] { return active_kernels().isa; }, "The active instruction set.");
    m.def("set_isa", &choose_isa, py::arg("name"), "Use another of the instruction sets that this machine can run.");
    m.def("available_isas", &available_isas, "What this machine can run, lowest first.");
    m.def("get_num_threads", &num_threads, "How many threads a step may use, the calling one among them.");
    m.def("set_num_threads", &choose_threads, py::arg("n"),
          "Let a step use up to so many threads; a small model takes fewer, and results never depend on it.");
    m.def(
        "thread_default", [] { return py::make_tuple(default_threads().count, default_threads().source); },
        "The default number of threads, and where it comes from.");
    m.def("get_threading", &threading, "Which threads take a step: \"openmp\" or \"pool\".");
    m.def("set_threading", &choose_threading, py::arg("name"),
          "Take steps with OpenMP's threads (\"openmp\") or with the package's own (\"pool\"); results never depend on "
          "it.");
    m.def("pretend_cpus", &pretend_cpus, py::arg("n"), "Make teams as on a machine with so many CPUs: for tests.");
    m.def("noise_key", &noise_key, py::arg("seed"), py::arg("tensor"), py::arg("step"));
    m.def(
        "xla_step", [] { return py::capsule(reinterpret_cast<void*>(&xla::step)); },
        "The step as a handler of XLA's foreign functions, for jax.ffi.register_ffi_target.");
    m.def("stream", &stream, py::arg("read_write"), py::arg("read"),
          "One pass that reads all arrays and writes the first list's: the memory traffic of a step.");

    if (has_fast_crc32())
        m.def("crc32", &crc32, py::arg("data"), py::arg("value") = 0, "zlib.crc32, by carry-less multiplication.");

    py::class_<FloatScope>(m, "DefaultFloats")
        .def(py::init<>())
        .def("__enter__", [](FloatScope& scope) { scope.before = enter_default_floats(); })
        .def("__exit__", [](FloatScope& scope, const py::args&) { restore_floats(scope.before); });

    py::class_<Tree>(m, "Tree", py::custom_type_setup(support_gc<Tree>))
        .def(py::init<py::handle, std::string, py::object>(), py::arg("object"), py::arg("name"),
             py::arg("expand") = py::none())
        .def_property_readonly("paths", &Tree::paths)
        .def_property_readonly("leaves", &Tree::leaves)
        .def(
            "flatten",
            [](const Tree& tree, py::object object, const std::string& name) {
                std::vector<py::object> flat;
                tree.flatten(object.ptr(), name.c_str(), flat);
                py::list leaves;
                for (py::object& leaf : flat) leaves.append(std::move(leaf));
                return leaves;
            },
            py::arg("object"), py::arg("name"));

    py::class_<Exclusive>(m, "Exclusive").def("__enter__", &Exclusive::enter).def("__exit__", &Exclusive::exit);

    py::class_<Memory>(m, "Memory", "A tensor's memory, checked, in the place of an array.",
                       py::custom_type_setup(support_gc<Memory>));

    py::class_<TensorReader>(m, "TensorReader")
        .def(py::init<py::object, py::object, py::object, py::object, py::object>(), py::arg("exchange"),
             py::arg("to_dlpack"), py::arg("type"), py::arg("has_mode"), py::arg("quiet"))
        .def("memory", &TensorReader::memory, py::arg("tensor"), py::arg("name"));

    py::class_<Model>(m, "Model", py::custom_type_setup(support_gc<Model>))
        .def(py::init<const std::string&, py::object, py::object, bool, std::uint64_t>(), py::arg("rule"),
             py::arg("check") = py::none(), py::arg("cross_check") = py::none(), py::kw_only(),
             py::arg("plain") = false, py::arg("first_index") = 0)
        .def("add_group", &Model::add_group, py::arg("group"), py::arg("rule") = "")
        .def(
            "add",
            [](Model& model, int group, py::object param, py::list states, std::string path, py::object master,
               bool stochastic, py::object ema, py::object direction, std::uint64_t step,
               const std::vector<double>& scalars) {
                model.add(group, {param, states, path, master, stochastic, ema, direction}, step, scalars);
            },
            py::arg("group"), py::arg("param"), py::arg("states"), py::kw_only(), py::arg("path") = "",
            py::arg("master") = py::none(), py::arg("stochastic") = false, py::arg("ema") = py::none(),
            py::arg("direction") = py::none(), py::arg("step") = 0, py::arg("scalars") = std::vector<double>{})
        .def("hold", &Model::hold, py::arg("array"), py::arg("name"))
        .def("set_product", &Model::set_product, py::arg("product"))
        .def("set_row_check", &Model::set_row_check, py::arg("check"), py::arg("type"), py::arg("without"))
        .def("advise", &Model::advise, py::arg("advice"))
        .def(
            "exclusive",
            [](const Model& model, std::string what, bool step) {
                return std::make_unique<Exclusive>(model.claim(), std::move(what), step);
            },
            py::arg("what"), py::arg("step") = false,
            "A context manager that keeps steps out; RuntimeError during a step. With `step`, a part of a step.")
        .def("share_claim", &Model::share_claim, py::arg("other"))
        .def("finish", &Model::finish)
        .def("share_tensors", &Model::share_tensors, py::arg("pieces"), py::arg("buckets"), py::arg("begin"),
             py::arg("receive"), py::arg("sum"), py::arg("send"))
        .def("share_parts", &Model::share_parts, py::arg("begin"), py::arg("sum"))
        .def("bind", &Model::bind, py::arg("tree"), py::arg("grads"))
        .def("prepare", &Model::prepare, py::arg("grad_scale"))
        .def("step_bound", &Model::step_bound, py::arg("grad_scale"))
        .def("step_tree", &Model::step_tree, py::arg("tree"), py::arg("grads"), py::arg("grad_scale"))
        .def("step_list", &Model::step_list, py::arg("grads"), py::arg("grad_scale"),
             py::arg("zero_grads") = std::nullopt)
        .def("configure", &Model::configure, py::arg("max_grad_norm"), py::arg("skip_nonfinite"), py::arg("zero_grads"),
             py::arg("seed"))
        .def("warn_of_nonfinite", &Model::warn_of_nonfinite)
        .def("watch_steps", &Model::watch_steps, py::arg("every"), py::arg("until"), py::arg("states"),
             py::arg("records"), py::arg("keep"))
        .def_property_readonly("until_watched", &Model::until_watched)
        .def("__len__", &Model::size)
        .def("get_step", &Model::get_step, py::arg("index"))
        .def("set_step", &Model::set_step, py::arg("index"), py::arg("step"))
        .def("set_index", &Model::set_index, py::arg("index"), py::arg("number"))
        .def("get_scalars", &Model::get_scalars, py::arg("index"))
        .def("set_scalars", &Model::set_scalars, py::arg("index"), py::arg("values"))
        .def_property(
            "steps_taken", [](const Model& model) -> std::uint64_t { return model.steps_taken; },
            [](Model& model, std::uint64_t taken) { model.steps_taken = taken; })
        .def_property(
            "clip_exactly", [](const Model& model) -> bool { return model.options.clip_exactly; },
            [](Model& model, bool exactly) { model.options.clip_exactly = exactly; })
        .def_property_readonly("grad_norm",
                               [](const Model& model) {
                                   const double norm = model.grad_norm;
                                   return norm < 0 ? std::nullopt : std::optional<double>(norm);
                               })
        .def_property_readonly("nonfinite_blocks",
                               [](const Model& model) -> std::uint64_t { return model.nonfinite_blocks; });

    py::class_<StepAnswer> answer(m, "StepAnswer");
    answer.def_readonly("which", &StepAnswer::which);
    for (const auto& [name, outcome] :
         {std::pair("TAKEN", StepAnswer::taken), std::pair("SKIPPED", StepAnswer::skipped),
          std::pair("STALE", StepAnswer::stale)})
        answer.attr(name) = kept_answer(outcome);

    py::class_<TorchModel>(m, "TorchModel", py::custom_type_setup(support_gc<TorchModel>))
        .def(py::init<py::object, TensorReader, std::vector<std::string>>(), py::arg("model"), py::arg("reader"),
             py::arg("watched"))
        .def("watch", &TorchModel::watch, py::arg("param"), py::arg("local"), py::kw_only(),
             py::arg("inner") = py::none(), py::arg("state") = py::none(),
             py::arg("names") = std::vector<std::string>{}, py::arg("step") = py::none(),
             py::arg("scalars") = py::list(), py::arg("direction") = py::none())
        .def("finish", &TorchModel::finish)
        .def(
            "step",
            [](TorchModel& model, py::list groups, double grad_scale, py::dict substitutes, std::ptrdiff_t only) {
                StepAnswer found = model.step(std::move(groups), grad_scale, std::move(substitutes), only);
                return found.which.empty() ? kept_answer(found.outcome) : py::cast(std::move(found));
            },
            py::arg("groups"), py::arg("grad_scale"), py::arg("substitutes"), py::arg("only") = -1)
        .def("stepped", &TorchModel::stepped)
        .def_property_readonly("zeroes", &TorchModel::zeroes)
        .def_readwrite("changed", &TorchModel::changed)
        .def_property("states_exposed", &TorchModel::states_exposed, &TorchModel::expose_states);
}
