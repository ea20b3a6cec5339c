// One element: through a rule, and what is left of its states.
#pragma once

// 0, 1, ... n - 1 as template arguments.
template <unsigned... V>
struct Sequence {};
template <unsigned n, unsigned... V>
struct Count : Count<n - 1, n - 1, V...> {};
template <unsigned... V>
struct Count<0, V...> {
    using type = Sequence<V...>;
};

// States never become subnormal: a step over subnormal numbers is several times slower on many CPUs.
template <class T>
inline T flushed(const T& x) {
    return magnitude(x) < smallest_normal(x) ? T{} : x;
}

template <class Rule>
constexpr int kStatesOf = static_cast<int>(sizeof(Rule::kStates) / sizeof(Rule::kStates[0]));

// Bit mask over states: those that a variant needs.
template <class Rule>
constexpr unsigned used_states(unsigned variant) {
    return Rule::states(variant) & ((1u << kStatesOf<Rule>)-1u);
}

// One element through the rule, whatever the number of its states.
template <class Rule, class T, unsigned V, class C>
inline void apply(const C& c, T& p, T g, T& a, T& b, T& d, T& e) {
    constexpr int n = kStatesOf<Rule> + (Rule::kProduct ? 1 : 0);  // the direction comes after the states
    if constexpr (n == 1) Rule::template update<T, V>(c, p, g, a);
    if constexpr (n == 2) Rule::template update<T, V>(c, p, g, a, b);
    if constexpr (n == 3) Rule::template update<T, V>(c, p, g, a, b, d);
    if constexpr (n == 4) Rule::template update<T, V>(c, p, g, a, b, d, e);
}
