// The buffers of a step: each read once and in order, checked, and named in messages.
#pragma once
#include <string>
#include <vector>

#include "frame.hpp"

namespace fusedstep::xla {

constexpr std::size_t kOne = static_cast<std::size_t>(-1);

// What a buffer is called: `what` alone for one that there is only one of, else with the name of a tensor or array.
struct Label {
    const char* what;
    std::size_t number = kOne;
};

// A line of several; empty beyond the last.
std::string line(std::string_view lines, std::size_t number);

class Arguments {
public:
    // The last `gradients` arguments are only read, as are those before the results' own.
    Arguments(const Frame& frame, std::size_t gradients);

    // How many traced numbers come first.
    std::size_t traced() const { return first_; }

    // How many arguments have not been read.
    std::size_t left() const { return frame_.arguments() - next_; }

    // The next argument that is stepped in place: its result must be the same memory.
    View take(const Label& label);

    // The next one, which must be `size` elements of this dtype.
    View take(const Label& label, int dtype, std::size_t size);

    // The next one, which holds states of several tensors.
    void add_array();

    // The elements of such an array that belong to a tensor: `place` has its number and the first of them.
    View slice(const std::int64_t* place, std::size_t size);

    // The next gradient, which is only read.
    View read(const Label& label);

    // Ends the call if an argument that is written shares memory with another; those that are only read may.
    void check_overlap();

    // "params["W"]"
    std::string name(const Label& label) const;

    [[noreturn]] void refuse(const Label& label, const View& got, const std::string& needs) const;

private:
    struct Range {
        const char *begin, *end;
        Label label;
        bool written;
    };
    struct Packed {
        View view;
        std::size_t used;  // elements that belong to tensors read so far
    };

    void note(const View& view, const Label& label, bool written);

    const Frame& frame_;
    std::string_view paths_;
    std::size_t first_, next_;
    std::vector<Range> ranges_;
    std::vector<Packed> arrays_;
};

}  // namespace fusedstep::xla
