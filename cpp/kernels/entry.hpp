// What the engine knows of a rule, made of its struct: a row of the table.
#pragma once

template <class Rule, class T>
void derive(const double* h, std::uint64_t step, double* scalars, void* constants) {
    using Constants = typename Rule::template Constants<T>;
    static_assert(sizeof(Constants) <= kConstantsBytes, "raise kConstantsBytes");
    const Constants c = Rule::template derive<T>(h, step, scalars);
    std::memcpy(constants, &c, sizeof c);
}

template <class Rule, class T>
void trust([[maybe_unused]] void* constants, [[maybe_unused]] const double* h, [[maybe_unused]] std::uint64_t step,
           [[maybe_unused]] double* scalars, [[maybe_unused]] double count, [[maybe_unused]] double first,
           [[maybe_unused]] double second) {
    if constexpr (Rule::kNorms) {
        auto& c = *static_cast<typename Rule::template Constants<T>*>(constants);
        if constexpr (Rule::kScalars != 0)
            Rule::template trust<T>(c, h, step, scalars, first, second);
        else if constexpr (Rule::kFactors.rows >= 0)
            Rule::template trust<T>(c, h, step, count, first, second);
        else
            Rule::template trust<T>(c, h, first, second);
    }
}

template <class Rule, class T>
Decay decay(const void* constants, unsigned variant) {
    return Rule::template decay<T>(*static_cast<const typename Rule::template Constants<T>*>(constants), variant);
}
template <class Rule, class T>
constexpr auto decay_of() -> Decay (*)(const void*, unsigned) {
    if constexpr (Rule::kCautious) return decay<Rule, T>;
    return nullptr;
}

template <class Rule, class T>
constexpr auto factors_of() -> FactorWeights (*)(const double*, std::uint64_t) {
    if constexpr (Rule::kFactors.rows >= 0) return Rule::template factors<T>;
    return nullptr;
}

// The functions of one rule, one per variant and compute type.
template <class Rule, class T, class = typename Count<Rule::kVariants>::type>
struct Updates;
template <class Rule, class T, unsigned... V>
struct Updates<Rule, T, Sequence<V...>> {
    static constexpr UpdateFn table[] = {&update<Rule, T, V>...};
};
template <class Rule, class T, class = typename Count<(Rule::kNorms ? Rule::kVariants : 0)>::type>
struct Directions;
template <class Rule, class T, unsigned... V>
struct Directions<Rule, T, Sequence<V...>> {
    static constexpr DirectionFn table[sizeof...(V) + 1] = {&direction<Rule, T, V>..., nullptr};
};

template <class Rule, class T, class = typename Count<(Rule::kProduct ? Rule::kVariants : 0)>::type>
struct Aims;
template <class Rule, class T, unsigned... V>
struct Aims<Rule, T, Sequence<V...>> {
    static constexpr UpdateFn table[sizeof...(V) + 1] = {&aim<Rule, T, V>..., nullptr};
};

#if defined(FUSEDSTEP_VEC)
template <class Rule, unsigned... V>
NarrowFn narrow_of(unsigned variant, Format moments, Sequence<V...>) {
    NarrowFn chosen = nullptr;
    static_cast<void>(((V == variant && ((chosen = choose_narrow<Rule, V>(moments)), true)) || ...));
    return chosen;
}
#endif
template <class Rule>
NarrowFn narrow([[maybe_unused]] unsigned variant, [[maybe_unused]] Format moments, [[maybe_unused]] Format param) {
#if defined(FUSEDSTEP_VEC)
    if constexpr (Rule::kProduct) return nullptr;  // most of its time is the product's
    if constexpr (Rule::kBfloat16Step)
        if (variant == 0 && param != Format::float32) return choose_pairs<Rule, 0>(moments, param);
    return narrow_of<Rule>(variant, moments, typename Count<Rule::kVariants>::type{});
#else
    return nullptr;
#endif
}

template <class Rule>
constexpr RuleEntry entry() {
    static_assert(kStatesOf<Rule> <= kMaxStates && Rule::kScalars <= kMaxScalars, "raise the limits in types.hpp");
    constexpr int hypers = static_cast<int>(sizeof(Rule::kHypers) / sizeof(Rule::kHypers[0]));
    static_assert(hypers <= kMaxHypers, "raise kMaxHypers");
    return {Rule::kName,
            Rule::kHypers,
            hypers,
            Rule::kStates,
            kStatesOf<Rule>,
            Rule::kScalarNames,
            Rule::kScalars,
            Rule::kNorms,
            Rule::kNormParam,
            Rule::kNormStates,
            Rule::kWhole,
            Rule::kProduct,
            Rule::variant,
            used_states<Rule>,
            {derive<Rule, float>, derive<Rule, double>},
            {trust<Rule, float>, trust<Rule, double>},
            {decay_of<Rule, float>(), decay_of<Rule, double>()},
            {factors_of<Rule, float>(), factors_of<Rule, double>()},
            Rule::kFactors,
            {Updates<Rule, float>::table, Updates<Rule, double>::table},
            {Directions<Rule, float>::table, Directions<Rule, double>::table},
            {Aims<Rule, float>::table, Aims<Rule, double>::table},
            narrow<Rule>};
}

template <class... R>
struct Entries;
template <class... R>
struct Entries<List<R...>> {
    static constexpr RuleEntry table[] = {entry<R>()...};
    static constexpr int count = static_cast<int>(sizeof...(R));
};
