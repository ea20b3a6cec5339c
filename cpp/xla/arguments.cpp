#include "arguments.hpp"

#include <algorithm>

namespace fusedstep::xla {

std::string line(std::string_view lines, std::size_t number) {
    for (; number > 0; --number)
        lines.remove_prefix(std::min(lines.size(), std::min(lines.size(), lines.find('\n')) + 1));
    return std::string(lines.substr(0, lines.find('\n')));
}

Arguments::Arguments(const Frame& frame, std::size_t gradients) : frame_(frame), paths_(frame.text("paths")) {
    if (frame.arguments() < gradients + frame.results())
        throw Refused("tensors: got more than there are arguments, needs one for each gradient", kInternal);
    first_ = next_ = frame.arguments() - gradients - frame.results();
}

std::string Arguments::name(const Label& label) const {
    if (label.number == kOne) return label.what;
    if (label.what == std::string_view("array"))
        return "state.arrays[\"" + line(frame_.text("arrays"), label.number) + "\"]";
    return label.what + line(paths_, label.number);
}

void Arguments::refuse(const Label& label, const View& got, const std::string& needs) const {
    throw Refused(name(label) + ": got " + std::to_string(got.size) + " elements of " + dtype_text(got.dtype) +
                  ", needs " + needs);
}

void Arguments::note(const View& view, const Label& label, bool written) {
    const char* begin = static_cast<const char*>(view.data);
    const std::size_t bytes = view.bytes();
    if (bytes == 0) return;
    if (reinterpret_cast<std::uintptr_t>(begin) % (bytes / view.size) != 0)
        throw Refused(name(label) + ": got memory that is not aligned to its dtype, needs aligned memory");
    ranges_.push_back({begin, begin + bytes, label, written});
}

View Arguments::take(const Label& label) {
    const View given = frame_.argument(next_), result = frame_.result(next_ - first_);
    ++next_;
    if (given.data != result.data && given.size != 0)
        throw Refused(name(label) + ": got a result in memory of its own, needs that of its argument", kInternal);
    if (given.dtype != result.dtype || given.size != result.size)
        throw Refused(name(label) + ": got a result unlike its argument, needs the same dtype and size", kInternal);
    note(given, label, true);
    return given;
}

View Arguments::take(const Label& label, int dtype, std::size_t size) {
    const View view = take(label);
    if (view.dtype != dtype || view.size != size)
        refuse(label, view, std::to_string(size) + " of " + dtype_text(dtype));
    return view;
}

void Arguments::add_array() {
    const std::size_t number = arrays_.size();
    arrays_.push_back({take({"array", number}), 0});
}

View Arguments::slice(const std::int64_t* place, std::size_t size) {
    const auto number = static_cast<std::size_t>(place[0]), begin = static_cast<std::size_t>(place[1]);
    if (place[0] < 0 || number >= arrays_.size() || place[1] < 0 || begin < arrays_[number].used ||
        begin > arrays_[number].view.size || size > arrays_[number].view.size - begin)
        throw Refused("tensors: got a place beyond an array or in another tensor's, needs a free one", kInternal);
    arrays_[number].used = begin + size;
    const View& whole = arrays_[number].view;
    const std::size_t width = whole.size == 0 ? 0 : whole.bytes() / whole.size;
    return {static_cast<char*>(whole.data) + begin * width, size, whole.dtype};
}

View Arguments::read(const Label& label) {
    const View view = frame_.argument(next_++);
    note(view, label, false);
    return view;
}

void Arguments::check_overlap() {
    std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) { return a.begin < b.begin; });
    const Range *any = nullptr, *written = nullptr;  // how far the ranges so far reach
    for (const Range& range : ranges_) {
        const Range* other = range.written ? any : written;
        if (other != nullptr && range.begin < other->end)
            throw Refused(name(other->label) + " and " + name(range.label) +
                          ": got memory in common, each needs memory of its own, since a step writes in place");
        if (any == nullptr || range.end > any->end) any = &range;
        if (range.written && (written == nullptr || range.end > written->end)) written = &range;
    }
}

}  // namespace fusedstep::xla
