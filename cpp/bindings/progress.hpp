// A parameter's step count and scalar states as the one-element tensors that others see.
#pragma once
#include <vector>

#include "../engine/engine.hpp"
#include "memory.hpp"
#include "reader.hpp"

namespace fusedstep {

class Progress {
public:
    Progress() = default;

    // Tensors of float32 or float64; `step` may be None. TypeError or ValueError for others.
    Progress(TensorReader& reader, py::handle step, const py::list& scalars);

    // Adds the memory of the step count and the scalars, of the rule's names; `name` is the parameter's.
    void add_to(WrittenMemory& memory, const RuleEntry& rule, const std::string& name) const;

    // Takes the values of the tensors over into `x`, where others may have changed them: at first, and while they are
    // `exposed`. False, with nothing taken over, for a step count that is none; then seen() is what it was.
    bool read(Tensor& x, bool exposed);
    double seen() const { return step_.value(); }

    // After a step: writes the values of `x` to the tensors or, while nobody sees them, notes that they are behind.
    void went_on(const Tensor& x, bool exposed);

    // Writes them if they are behind.
    void write(const Tensor& x);

private:
    struct Number {
        void* data = nullptr;
        bool wide = false;
        py::object tensor;

        double value() const { return wide ? *static_cast<const double*>(data) : *static_cast<const float*>(data); }
        // As the tensor would hold it: float32 holds every count up to 2**24, beyond which the exact one goes on here.
        double rounded(double exact) const { return wide ? exact : static_cast<double>(static_cast<float>(exact)); }
        void store(double value) const;
    };
    static Number number(TensorReader& reader, py::handle tensor);

    Number step_;
    std::vector<Number> scalars_;
    bool known_ = false, behind_ = false;
};

}  // namespace fusedstep
