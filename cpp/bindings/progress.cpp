#include "progress.hpp"

#include <cmath>

namespace fusedstep {

Progress::Progress(TensorReader& reader, py::handle step, const py::list& scalars) : step_(number(reader, step)) {
    for (const py::handle scalar : scalars) scalars_.push_back(number(reader, scalar));
}

Progress::Number Progress::number(TensorReader& reader, py::handle tensor) {
    Number out;
    if (tensor.is_none()) return out;
    dlpack::Tensor view;
    Format format;
    const bool fits = reader.read(tensor.ptr(), view) && view.device.type == dlpack::kCpu &&
                      to_format(view.dtype, format) && (format == Format::float32 || format == Format::float64) &&
                      !is_complex(view.dtype) && address(view) != nullptr;
    if (!fits) throw py::type_error("step and scalar states need one-element tensors of float32 or float64 on the CPU");
    for (int d = 0; d < view.ndim; ++d)
        if (view.shape[d] != 1) throw py::value_error("step and scalar states need one-element tensors");
    out.data = address(view);
    out.wide = format == Format::float64;
    if (!in_storage(tensor.ptr(), out.data, item_size(format)))
        throw py::value_error("step and scalar states: the memory of a tensor was freed");
    out.tensor = py::reinterpret_borrow<py::object>(tensor);
    return out;
}

void Progress::add_to(WrittenMemory& memory, const RuleEntry& rule, const std::string& name) const {
    const auto add = [&](const Number& number, const std::string& key) {
        if (number.data != nullptr) memory.add(number.data, number.wide ? sizeof(double) : sizeof(float), name + key);
    };
    add(step_, " step");
    for (std::size_t s = 0; s < scalars_.size(); ++s) add(scalars_[s], std::string(" ") + rule.scalars[s]);
}

void Progress::Number::store(double value) const {
    if (wide)
        *static_cast<double*>(data) = value;
    else
        *static_cast<float*>(data) = static_cast<float>(value);
}

bool Progress::read(Tensor& x, bool exposed) {
    if (known_ && !exposed) return true;
    if (step_.data != nullptr) {
        const double step = step_.value();
        if (!(step >= 0) || step != std::floor(step)) return false;
        if (step != step_.rounded(static_cast<double>(x.step))) x.step = static_cast<std::uint64_t>(step);
    }
    for (std::size_t s = 0; s < scalars_.size(); ++s)
        if (scalars_[s].value() != scalars_[s].rounded(x.scalars[s])) x.scalars[s] = scalars_[s].value();
    known_ = true;
    return true;
}

void Progress::went_on(const Tensor& x, bool exposed) {
    behind_ = true;
    if (exposed) write(x);
}

void Progress::write(const Tensor& x) {
    if (!behind_) return;
    if (step_.data != nullptr) step_.store(static_cast<double>(x.step));
    for (std::size_t s = 0; s < scalars_.size(); ++s) scalars_[s].store(x.scalars[s]);
    behind_ = false;
}

}  // namespace fusedstep
