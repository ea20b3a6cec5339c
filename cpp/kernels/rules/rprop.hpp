// Resilient backpropagation, as torch.optim.Rprop: step sizes from the signs of successive gradients alone. After a
// change of sign the gradient is forgotten and the weight stays.
struct Rprop : Elementwise {
    static constexpr const char* kName = "rprop";
    static constexpr const char* kHypers[] = {"etas.0", "etas.1", "step_sizes.0", "step_sizes.1"};
    enum { kEtaMinus, kEtaPlus, kSmallest, kLargest };
    static constexpr State kStates[] = {{"prev", kSigned}, {"step_size", kExact}};

    template <class T>
    struct Constants {
        T shrink, grow, smallest, largest;
    };
    template <class T>
    static Constants<T> derive(const double* h, std::uint64_t, double*) {
        return {T(h[kEtaMinus]), T(h[kEtaPlus]), T(h[kSmallest]), T(h[kLargest])};
    }

    template <class T, unsigned V>
    static void update(const Constants<T>& c, T& p, T g, T& previous, T& size) {
        const T agreement = g * previous;
        T factor = agreement > T{} ? c.grow : T{} + 1;
        factor = agreement < T{} ? c.shrink : factor;
        size = size * factor;
        size = size > c.largest ? c.largest : size;
        size = size < c.smallest ? c.smallest : size;
        g = agreement < T{} ? T{} : g;
        p = p - sign(g) * size;
        previous = g;
    }
};
