// A number that other threads may read or set while a step uses it: every value is whole, in no order with others.
#pragma once
#include <atomic>

namespace fusedstep {

template <class T>
class Visible {
public:
    Visible(T value = T()) : value_(value) {}
    Visible(const Visible& other) : value_(other) {}
    Visible& operator=(const Visible& other) { return *this = static_cast<T>(other); }
    Visible& operator=(T value) {
        value_.store(value, std::memory_order_relaxed);
        return *this;
    }
    void operator+=(T value) { value_.fetch_add(value, std::memory_order_relaxed); }
    operator T() const { return value_.load(std::memory_order_relaxed); }

private:
    std::atomic<T> value_;
};

}  // namespace fusedstep
